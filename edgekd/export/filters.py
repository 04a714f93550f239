"""pad_filters: gives integer convolutions with few filters some of zeros, because their fast kernels write many at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnxscript import ir

from edgekd.export.passes import new_constant

ALONE = ("Relu", "Clip", "QuantizeLinear", "DequantizeLinear", "MaxPool")
"""Operators that compute each channel for itself."""
Real = NDArray[np.bool_]  # [channels]: False for a channel of zeros
Channels = Mapping[ir.Value, tuple[Real, frozenset[ir.Node]]]
"""The channels of each wider value, and the convolutions whose padding it holds."""


def pad_filters(model: ir.Model, filters: int) -> None:
    """Pads integer convolutions with fewer filters to `filters`, and the weights behind them, with zeros.

    The outputs stay the same, bit for bit. A convolution is padded only if all that reads it is an integer convolution in the
    end, behind operators of `ALONE`, additions of values that are padded alike, and concatenations of channels. From an output
    of the graph the zeros are cut before it is dequantized.
    """
    padded = {node for node in model.graph if 0 < _filters(node) < filters}
    while True:
        channels, spoiled = _spread(model, padded, filters)
        if not spoiled:
            break
        padded -= spoiled
    for node in model.graph:
        if node in padded:
            _pad(node, 0, np.arange(filters) < _filters(node))
    for node in model.graph:
        x = node.inputs[0] if node.op_type == "Conv" else None
        if x is not None and x in channels:
            _pad(node, 1, channels[x][0])
    for value, (real, _) in channels.items():
        if value.is_graph_output():
            _cut(model, value, int(real.sum()))
        else:
            value.shape = None


def _spread(model: ir.Model, padded: set[ir.Node], filters: int) -> tuple[Channels, set[ir.Node]]:
    """The channels of all values behind padded convolutions, and the convolutions that an operator forbids to pad."""
    channels: dict[ir.Value, tuple[Real, frozenset[ir.Node]]] = {}
    spoiled: set[ir.Node] = set()
    for node in model.graph:
        behind = [channels[value] for value in node.inputs if value is not None and value in channels]
        origins = frozenset[ir.Node]().union(*(found for _, found in behind))
        if node in padded:
            channels[node.outputs[0]] = np.arange(filters) < _filters(node), frozenset({node})
        elif behind and node.op_type in ALONE:
            channels[node.outputs[0]] = behind[0]
        elif behind and node.op_type == "Add" and len(behind) == 2 and np.array_equal(behind[0][0], behind[1][0]):
            channels[node.outputs[0]] = behind[0][0], origins
        elif behind and node.op_type == "Concat" and node.attributes.get_int("axis", 0) == 1:
            parts = [channels[value][0] if value in channels else _all(value) for value in node.inputs]
            if any(part is None for part in parts):
                spoiled |= origins
            else:
                channels[node.outputs[0]] = np.concatenate(parts), origins  # type: ignore[arg-type]
        elif behind and not _filters(node):
            spoiled |= origins
    for value in model.graph.outputs:
        if value in channels and not _can_be_cut(value, channels[value][0]):
            spoiled |= channels[value][1]
    return channels, spoiled


def _can_be_cut(output: ir.Value, real: Real) -> bool:
    """Whether a graph's output is dequantized for it alone, with its zeros behind the other channels."""
    maker = output.producer()
    last = not real[int(real.sum()) :].any()
    return maker is not None and maker.op_type == "DequantizeLinear" and not output.uses() and last


def _cut(model: ir.Model, output: ir.Value, channels: int) -> None:
    """Leaves the first channels of a graph's output, of its integers."""
    maker = output.producer()
    assert maker is not None and maker.inputs[0] is not None
    integers = maker.inputs[0]
    bounds = [
        new_constant(model, f"{integers.name}_{end}", np.array([at], np.int64))
        for end, at in (("from", 0), ("to", channels), ("axis", 1))
    ]
    cut = ir.node("Slice", [integers, *bounds])
    cut.outputs[0].name = f"{integers.name}_cut"
    model.graph.insert_before(maker, cut)
    maker.replace_input_with(0, cut.outputs[0])


def _filters(node: ir.Node) -> int:
    """The filters of an integer convolution whose weight and bias it alone reads; 0 for other operators."""
    if node.op_type != "Conv" or node.attributes.get_int("group", 1) != 1:
        return 0
    parts = [_stored(value) for value in node.inputs[1:]]
    if not parts or any(part is None for part in parts):
        return 0
    integers = _array(parts[0][0])  # type: ignore[index]
    return len(integers) if integers is not None else 0


def _stored(value: ir.Value | None) -> list[ir.Value] | None:
    """The constants (integers, scale, perhaps a zero-point) that only this value is dequantized from."""
    maker = value.producer() if value is not None else None
    if value is None or maker is None or maker.op_type != "DequantizeLinear":
        return None
    constants = [constant for constant in maker.inputs if constant is not None]
    alone = all(len(each.uses()) == 1 and _array(each) is not None for each in constants)
    return constants if alone and len(value.uses()) == 1 else None


def _pad(conv: ir.Node, axis: int, real: Real) -> None:
    """Puts zeros between a convolution's filters (axis 0) or what they read (axis 1), wherever `real` is False."""
    for value in conv.inputs[1:] if axis == 0 else conv.inputs[1:2]:
        assert value is not None
        constants = _stored(value)
        assert constants is not None
        for number, constant in enumerate(constants):
            array = _array(constant)
            assert array is not None
            if array.ndim <= axis:  # a scale of all filters, or of each where the filters read more
                continue
            wider = list(array.shape)
            wider[axis] = len(real)
            # A filter of zeros takes any scale, here 1. onnxruntime computes in float unless a bias has the product's.
            scale = 1 if value is conv.inputs[1] else _scale(conv.inputs[0])
            filled = np.full(wider, scale if number == 1 else 0, array.dtype)
            filled[(slice(None),) * axis + (real,)] = array
            constant.const_value = ir.tensor(filled, name=constant.name)
            constant.shape = ir.Shape(wider)
        value.shape = None


def _scale(value: ir.Value | None) -> NDArray[np.generic]:
    """The scale of a dequantized activation."""
    maker = value.producer() if value is not None else None
    scale = _array(maker.inputs[1]) if maker is not None else None
    assert scale is not None
    return scale


def _all(value: ir.Value | None) -> Real | None:
    size = value.shape[1] if value is not None and value.shape is not None and len(value.shape) > 1 else None
    return np.ones(size, np.bool_) if isinstance(size, int) else None


def _array(value: ir.Value | None) -> NDArray[np.generic] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
