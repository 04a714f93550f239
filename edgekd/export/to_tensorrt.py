"""to_tensorrt: builds an ONNX file's engine on this machine, with the script that a bundle takes to its device."""

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
    """Builds the engine of `onnx_path` with the TensorRT of this machine and writes it to `engine_path`.

    precision   int8, fp16, bf16 or fp32: the precision of the exported graph
    options     those of `edgekd.scripts.build_engine.Options`: max_batch, profile, workspace_mb, dla_core, ...

    Returns a description of the engine. The timing cache lies beside the engine. Raises ExportError if TensorRT is not
    installed or cannot build the file. For a file that the parser refuses, the error lists all parser errors with their
    nodes. Raises it also for layers built in a wider type than the graph asks for.
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
