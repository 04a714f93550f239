"""largest_values: measures the largest magnitude of every float tensor of a graph, on real samples."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxscript import ir

from edgekd.errors import DataError
from edgekd.runtime.check import open_session
from edgekd.runtime.runners import fixed_batch
from edgekd.runtime.sessions import Refused

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
MOST_OUTPUTS = 64  # values read in a single run: all at once could exceed the memory


def largest_values(model: ir.Model, samples: Mapping[str, NDArray[Any]], title: str) -> dict[str, float]:
    """Tensor -> its largest magnitude over `samples`, rows by the input's name. NaN counts as infinite.

    The graph runs as written, without fused operators, on a row (or its fixed batch) at a time. Its types must be known.
    `title` names the graph in errors. Raises DataError if the graph does not run on these rows, ExportError if onnxruntime
    cannot run it at all.
    """
    values = [value for node in model.graph for value in node.outputs if value.dtype in FLOATS and value.name]
    names = [str(value.name) for value in values]
    largest = dict.fromkeys(names, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        _save_giving(model, values, file)
        session = open_session(file, optimise=False)
        size = fixed_batch(session) or 1
        count = min(len(rows) for rows in samples.values())
        for first in range(0, len(names), MOST_OUTPUTS):
            part = names[first : first + MOST_OUTPUTS]
            for start in range(0, count, size):
                rows = np.arange(start, start + size).clip(max=count - 1)  # fills up the last batch
                try:
                    outputs = session.run(part, {name: array[rows] for name, array in samples.items()})
                except Refused as error:
                    takes = ", ".join(f"{value.name} {value.dtype} {value.shape}" for value in model.graph.inputs)
                    reason = " ".join(str(error).split())[:200]
                    raise DataError(f"{title} cannot be run on these samples: {reason}; it takes {takes}") from error
                for name, output in zip(part, outputs, strict=True):
                    peak = float(np.abs(output.astype(np.float32)).max(initial=0))
                    largest[name] = max(largest[name], np.inf if np.isnan(peak) else peak)
    return largest


def _save_giving(model: ir.Model, values: list[ir.Value], file: Path) -> None:
    """Writes the model with these values as its outputs. Weights lie beside it, so the 2 GB limit does not apply."""
    outputs = model.graph.outputs
    own = list(outputs)
    outputs[:] = values
    try:
        ir.save(model, file, external_data="weights")
    finally:
        outputs[:] = own
