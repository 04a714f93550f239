"""Rules on the range of fp16: constants beyond the range, and values beyond it, measured on samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from onnxscript import ir

from edgekd.errors import DataError
from edgekd.export.finding import Finding, LintedModel, array, readers, title
from edgekd.export.to_half import FP16_MAX, SAFE
from edgekd.export.values import largest_values

MEASURED = 32  # samples that are run to measure the values


def fp16_constants(subject: LintedModel) -> Iterator[Finding]:
    """Constants lie beyond the range of fp16."""
    half = "fp16" in subject.target.runtime.precisions
    for value in subject.model.graph.initializers.values():
        users = readers(value)
        if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16) or not users:
            continue
        values = np.asarray(array(value), np.float32)
        finite = values[
            np.isfinite(values)
        ]  # fp16 holds infinities and NaN exactly: masks and open bounds stay what they are
        largest = float(np.abs(finite).max(initial=0))
        if value.dtype == ir.DataType.FLOAT16 and not np.isfinite(values).all() and not _meant(values, users):
            why = f"constant {value.name} is infinite in fp16: it overflowed when it was converted"
            yield Finding("error", "fp16_constants", title(users[0]), why, "keep this node in fp32")
        elif value.dtype == ir.DataType.FLOAT and half and not largest <= FP16_MAX:
            why = f"constant {value.name} reaches {largest:.4g}, beyond fp16's {FP16_MAX:g}: infinite where this runs in fp16"
            remedy = "keep this node in fp32, or use a smaller constant"
            yield Finding("warning", "fp16_constants", title(users[0]), why, remedy)


def _meant(values: NDArray[np.float32], users: list[ir.Node]) -> bool:
    """Whether infinities are intended, as bounds or in a mask of 0 and -inf. Otherwise a weight overflowed."""
    mask = bool(np.all((values == 0) | (values == -np.inf)))
    return mask or all(user.op_type in ("Clip", "Min", "Max", "Where", "Pad") for user in users)


def fp16_values(subject: LintedModel) -> Iterator[Finding]:
    """Values lie beyond the range of fp16 on the given samples."""
    if subject.samples is None or "fp16" not in subject.target.runtime.precisions:
        return
    if any(value.dtype == ir.DataType.BFLOAT16 for value in subject.model.graph.initializers.values()):
        return  # a model in bf16 has the range of fp32
    n = min([MEASURED, *(len(rows) for rows in subject.samples.values())]) if subject.samples else 0
    if n == 0:
        raise DataError(f"the samples for {subject.path} hold no rows; give some as the model takes them")
    rows = {name: array[:n] for name, array in subject.samples.items()}
    found = largest_values(subject.model, rows, str(subject.path))
    for node, value in ((producer, output) for producer in subject.model.graph for output in producer.outputs):
        largest = found.get(value.name or "", 0.0)
        is_half = value.dtype == ir.DataType.FLOAT16
        reaches = f"{value.name} reaches {largest:.4g} on {n} samples"
        if not largest <= FP16_MAX:
            why = f"{reaches}, beyond fp16's {FP16_MAX:g}: infinite {'here' if is_half else 'where this runs in fp16'}"
            yield Finding("error" if is_half else "warning", "fp16_values", title(node), why, "keep this node in fp32")
        elif largest > SAFE:
            why = f"{reaches}; beyond {SAFE:g} other samples, or sums of it, may leave the range of fp16"
            remedy = "keep this node in fp32 if accuracy drops"
            yield Finding("warning" if is_half else "note", "fp16_values", title(node), why, remedy)
