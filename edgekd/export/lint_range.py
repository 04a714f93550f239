"""Rules on the range of fp16: constants that it cannot hold, and values, measured on samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxscript import ir

from edgekd.errors import DataError
from edgekd.export.finding import Finding, Subject, array, readers, title
from edgekd.export.lint_runtime import REFUSALS
from edgekd.export.to_fp16 import FP16_MAX, SAFE

MEASURED = 32  # samples that are run for the values
MOST_OUTPUTS = 64  # values that are read in one run: all at once could exceed the memory
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def fp16_constants(subject: Subject) -> Iterator[Finding]:
    """Constants that fp16 cannot hold."""
    half = "fp16" in subject.target.runtime.precisions
    for value in subject.model.graph.initializers.values():
        users = readers(value)
        if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16) or not users:
            continue
        values = np.asarray(array(value), np.float32)
        largest = float(np.abs(values).max(initial=0))
        if value.dtype == ir.DataType.FLOAT16 and not np.isfinite(largest):
            why = f"constant {value.name} is infinite in fp16: it overflowed when it was converted"
            yield Finding("error", "fp16_constants", title(users[0]), why, "keep this node in fp32")
        elif value.dtype == ir.DataType.FLOAT and half and not largest <= FP16_MAX:
            why = f"constant {value.name} reaches {largest:.4g}, beyond fp16's {FP16_MAX:g}: infinite where this runs in fp16"
            remedy = "keep this node in fp32, or use a smaller constant"
            yield Finding("warning", "fp16_constants", title(users[0]), why, remedy)


def fp16_values(subject: Subject) -> Iterator[Finding]:
    """Values beyond the range of fp16 on the samples that were given."""
    if subject.samples is None or "fp16" not in subject.target.runtime.precisions:
        return
    n = min([MEASURED, *(len(rows) for rows in subject.samples.values())]) if subject.samples else 0
    if n == 0:
        raise DataError(f"the samples for {subject.path} hold no rows; give some as the model takes them")
    for value, largest in _largest_values(subject, n):
        node = value.producer()
        assert node is not None
        is_half = value.dtype == ir.DataType.FLOAT16
        found = f"{value.name} reaches {largest:.4g} on {n} samples"
        if not largest <= FP16_MAX:
            why = f"{found}, beyond fp16's {FP16_MAX:g}: infinite {'here' if is_half else 'where this runs in fp16'}"
            yield Finding("error" if is_half else "warning", "fp16_values", title(node), why, "keep this node in fp32")
        elif largest > SAFE:
            why = f"{found}; beyond {SAFE:g} other samples, or sums of it, may leave the range of fp16"
            remedy = "keep this node in fp32 if accuracy drops"
            yield Finding("warning" if is_half else "note", "fp16_values", title(node), why, remedy)


def _largest_values(subject: Subject, n: int) -> Iterator[tuple[ir.Value, float]]:
    """The float values of the graph with their largest magnitudes over the first n samples, run one by one."""
    values = [value for node in subject.model.graph for value in node.outputs if value.dtype in FLOATS and value.name]
    with tempfile.TemporaryDirectory() as folder:
        run = _runner(subject, values, Path(folder) / "model.onnx")
        for start in range(0, len(values), MOST_OUTPUTS):
            part = values[start : start + MOST_OUTPUTS]
            largest = np.zeros(len(part))
            for i in range(n):
                outputs = run([str(value.name) for value in part], i)
                peaks = [float(np.abs(output.astype(np.float32)).max(initial=0)) for output in outputs]
                largest = np.maximum(largest, np.where(np.isnan(peaks), np.inf, peaks))
            yield from zip(part, largest.tolist(), strict=True)


def _runner(
    subject: Subject, values: list[ir.Value], file: Path
) -> Callable[[list[str], int], list[NDArray[np.floating[Any]]]]:
    """Gives the named values for a sample; the model with all of them as outputs is written to `file` (2 GB and more, too)."""
    outputs, samples = subject.model.graph.outputs, subject.samples or {}
    own = list(outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    outputs[:] = values
    try:
        ir.save(subject.model, file, external_data="weights")
    finally:
        outputs[:] = own
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except REFUSALS as error:
        raise DataError(f"{subject.path} does not run in onnxruntime, so no values are known: {error}") from error

    def run(names: list[str], sample: int) -> list[NDArray[np.floating[Any]]]:
        try:
            return list(session.run(names, {name: rows[sample : sample + 1] for name, rows in samples.items()}))
        except REFUSALS as error:
            takes = ", ".join(f"{value.name} {value.dtype} {value.shape}" for value in subject.model.graph.inputs)
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{subject.path} cannot be run on these samples: {reason}; it takes {takes}") from error

    return run
