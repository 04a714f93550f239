"""Rules on faults that make all values wrong, or the graph invalid: scales, and branches of different ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnxscript import ir

from edgekd.export.finding import Finding, LintedModel, Severity, array, given, title

# The inputs, by number, that hold an operator's scales.
SCALES = {
    "QuantizeLinear": (1,), "DequantizeLinear": (1,), "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6), "QGemm": (1, 4, 7),
    "QLinearAdd": (1, 4, 6), "QLinearMul": (1, 4, 6),
}  # fmt: skip


def scales(subject: LintedModel) -> Iterator[Finding]:
    """A scale is not positive and finite. TensorRT refuses it; elsewhere it gives NaN, zeros or wrong signs."""
    severity: Severity = "error" if subject.is_tensorrt else "warning"
    told: set[int] = set()
    for node in subject.nodes:
        for index in SCALES.get(node.op_type, ()):
            value = given(node, index)
            values = array(value)
            if values is None or id(value) in told:
                continue  # a pair shares its scale and is reported once
            numbers = values.astype(np.float32)
            bad = numbers[~(np.isfinite(numbers) & (numbers > 0))]
            if bad.size:
                told.add(id(value))
                effect = (
                    "TensorRT refuses it" if subject.is_tensorrt else "what it scales is NaN, zero or of another sign"
                )
                why = f"{bad.size} of {numbers.size} scales are not positive and finite (the first is {bad[0]:g}): {effect}"
                remedy = "calibrate again; a channel that is always 0 takes any positive scale"
                yield Finding(severity, "scales", title(node), why, remedy)


def branch_ranks(subject: LintedModel) -> Iterator[Finding]:
    """The branches of an If return tensors of different ranks, which TensorRT refuses."""
    for node in subject.nodes:
        if node.op_type != "If" or node.domain not in ("", "ai.onnx"):
            continue
        ways = [
            attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH
        ]
        for pair in zip(*(way.outputs for way in ways), strict=False):
            shapes = [value.shape for value in pair]
            ranks = {len(shape) for shape in shapes if shape is not None}
            if len(ranks) > 1:
                shown = " and ".join(str(rank) for rank in sorted(ranks))
                why = f"its branches give {pair[0].name} and {pair[1].name} of ranks {shown}; TensorRT refuses different ranks"
                remedy = (
                    "reshape both branches to one rank, or export without the If (its condition is often a constant)"
                )
                yield Finding("error", "branch_ranks", title(node), why, remedy)
