"""to_tensorrt: the engine of an ONNX file on this machine, by the very source that a bundle takes to its device."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgekd.errors import ExportError, nearest
from edgekd.scripts import build_engine as device
from edgekd.scripts.build_engine import Options


def to_tensorrt(
    onnx_path: str | os.PathLike[str], engine_path: str | os.PathLike[str], *, precision: str, **options: Any
) -> str:
    """Builds `onnx_path` as TensorRT builds it here and writes `engine_path`; returns what was made, in words.

    precision   int8, fp16, bf16 or fp32: what the graph was exported as
    options     those of `edgekd.scripts.build_engine.Options`: max_batch, profile, workspace_mb, dla_core, ...

    The timing cache lies beside the engine. Raises ExportError where TensorRT is not installed, reads the file not (every
    error of its parser, with the node), cannot build it, or built layers in a wider type than the graph asks for.
    """
    engine = Path(engine_path)
    given: dict[str, Any] = {"timing_cache": str(engine.with_name("timing.cache")), **options}
    if precision not in device.BITS:
        raise ExportError(f"precision {precision!r} given; possible: {', '.join(device.BITS)}")
    possible = [field.name for field in fields(Options)]
    for name in given:
        if name not in possible:
            raise ExportError(f"no option {name!r}{nearest(name, possible)}")
    try:
        return device.build_engine(
            Options(model=os.fspath(onnx_path), output=str(engine), precision=precision, **given)
        )
    except device.Failure as failure:
        raise ExportError(str(failure)) from failure
