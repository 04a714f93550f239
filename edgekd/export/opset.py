"""at_opset: a graph as an opset below the exporter's lowest writes it, by onnx's converter and what that leaves out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.version_converter
from onnx import GraphProto, NodeProto, TensorShapeProto, helper, numpy_helper

from edgekd.errors import ExportError

LOWEST = 18
"""The lowest opset that torch's exporter writes."""
HELD = "edgekd.held"  # a domain that onnx's converter leaves alone


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model at `opset`. Raises ExportError, with the least that it can be written at, for what has no older form."""
    try:
        return _converted(model, opset)
    except Exception as error:  # its C++ raises RuntimeError or ConvertError
        least = next(higher for higher in range(opset + 1, LOWEST + 1) if _can_be_written(model, higher))
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(
            f"this model cannot be written at opset {opset} ({reason.rpartition('failed: ')[2]}); the least that it can be "
            f"written at is {least}: set export.opset = {least}, if the target's runtime reads it"
        ) from error


def _can_be_written(model: onnx.ModelProto, opset: int) -> bool:
    try:
        _converted(model, opset)
    except Exception:  # as above
        return False
    return True


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    if opset >= LOWEST:
        return model
    older = onnx.shape_inference.infer_shapes(model)
    values = {value.name: value.type.tensor_type.shape for value in older.graph.value_info}
    for node in older.graph.node:
        if node.op_type == "Split" and not any(node.input[1:]):
            _give_sizes(older.graph, node, values)
    nodes = [simple for node in older.graph.node for simple in _spelt_out(node, opset, older.graph)]
    del older.graph.node[:]
    older.graph.node.extend(nodes)
    older.opset_import.append(helper.make_opsetid(HELD, 1))
    for node in older.graph.node:
        if _was_the_same(node):
            node.domain = HELD
    older = onnx.version_converter.convert_version(older, opset)
    for node in older.graph.node:
        if node.domain == HELD:
            node.domain = ""
        for attribute in [
            a for a in node.attribute if a.name == "noop_with_empty_axes" and node.op_type != "ReduceSum"
        ]:
            node.attribute.remove(attribute)  # the converter forgets it with ReduceL2
    versions = [entry for entry in older.opset_import if entry.domain != HELD]
    del older.opset_import[:]
    older.opset_import.extend(versions)
    return older


def _give_sizes(graph: GraphProto, node: NodeProto, values: Mapping[str, TensorShapeProto]) -> None:
    """The parts' sizes as an input, as opset 13 has them, in place of their number; not where a size is free."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    shapes = [values[name].dim for name in node.output if name in values]
    sizes = [shape[axis].dim_value for shape in shapes]
    if len(sizes) == len(node.output) and all(sizes):
        name = f"{node.name}/sizes"
        graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
        node.input.append(name)
        for attribute in [a for a in node.attribute if a.name == "num_outputs"]:
            node.attribute.remove(attribute)


def _was_the_same(node: NodeProto) -> bool:
    """Whether opset 13 has the operator with these inputs, though the converter knows no way to it."""
    return (node.op_type == "Split" and any(node.input[1:])) or (node.op_type == "Pad" and not any(node.input[3:]))


def _spelt_out(node: NodeProto, opset: int, graph: GraphProto) -> list[NodeProto]:
    """A younger operator as those that it is made of."""
    if node.op_type == "Mish":  # since 18; Misra 2020, eq. 1
        (x,), (y,) = node.input, node.output
        return [
            helper.make_node("Softplus", [x], [f"{y}/softplus"], f"{y}/softplus"),
            helper.make_node("Tanh", [f"{y}/softplus"], [f"{y}/tanh"], f"{y}/tanh"),
            helper.make_node("Mul", [x, f"{y}/tanh"], [y], node.name),
        ]
    if node.op_type == "LayerNormalization" and opset < 17:
        return _layer_norm(node, graph)
    return [node]


def _layer_norm(node: NodeProto, graph: GraphProto) -> list[NodeProto]:
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` over the last axes (Ba et al. 2016, eq. 4)."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    x, scale, *bias = node.input
    y, *others = node.output
    axis = given.get("axis", -1)
    if axis >= 0 or any(others):
        return [node]  # no model of torch has one
    epsilon, axes = f"{y}/epsilon", f"{y}/axes"
    graph.initializer.append(numpy_helper.from_array(np.array(given.get("epsilon", 1e-5), np.float32), epsilon))
    graph.initializer.append(numpy_helper.from_array(np.arange(axis, 0, dtype=np.int64), axes))
    steps = [
        ("ReduceMean", [x, axes], "mean"),
        ("Sub", [x, f"{y}/mean"], "centred"),
        ("Mul", [f"{y}/centred", f"{y}/centred"], "squares"),
        ("ReduceMean", [f"{y}/squares", axes], "variance"),
        ("Add", [f"{y}/variance", epsilon], "above_zero"),
        ("Sqrt", [f"{y}/above_zero"], "deviation"),
        ("Div", [f"{y}/centred", f"{y}/deviation"], "normalised"),
        ("Mul", [f"{y}/normalised", scale], "scaled"),
    ]
    nodes = [helper.make_node(kind, inputs, [f"{y}/{name}"], f"{y}/{name}") for kind, inputs, name in steps]
    if any(bias):
        return [*nodes, helper.make_node("Add", [f"{y}/scaled", bias[0]], [y], node.name)]
    nodes[-1].output[0] = y
    return nodes
