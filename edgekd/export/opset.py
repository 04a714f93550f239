"""at_opset: writes a graph at an opset below 18, with rewrites that onnx's converter lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.version_converter
from onnx import GraphProto, NodeProto, TensorProto, TensorShapeProto, helper, numpy_helper

from edgekd.errors import ExportError

LOWEST = 18
"""The lowest opset that torch's exporter writes."""
HELD = "edgekd.held"  # a domain that onnx's converter leaves alone
SIZES = "/sizes"


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model at `opset`.

    Raises ExportError if an operator has no older form. The error names the least possible opset.
    """
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
    graph = older.graph
    nodes = [simple for node in graph.node for simple in _spelt_out(node, opset, graph)]
    del graph.node[:]
    graph.node.extend(nodes)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape for value in (*graph.value_info, *graph.output)}
    older.opset_import.append(helper.make_opsetid(HELD, 1))
    for node in graph.node:
        rewrite = REWRITTEN.get(node.op_type)
        if rewrite is not None and rewrite(node, constants, shapes):
            node.domain = HELD
    graph.initializer.extend(tensor for name, tensor in constants.items() if name.endswith(SIZES))
    older = onnx.version_converter.convert_version(older, opset)
    for node in older.graph.node:
        if node.domain == HELD:
            node.domain = ""
    read = {name for node in older.graph.node for name in node.input} | {value.name for value in older.graph.output}
    stored = [tensor for tensor in older.graph.initializer if tensor.name in read]
    del older.graph.initializer[:]
    older.graph.initializer.extend(stored)
    versions = [entry for entry in older.opset_import if entry.domain != HELD]
    del older.opset_import[:]
    older.opset_import.extend(versions)
    return older


# Each function rewrites a node in its form of opset 13, and returns whether that was possible. onnx's converter lacks these
# rewrites, or loses the axes of a reduction in some releases.
Constants = dict[str, TensorProto]
Shapes = Mapping[str, TensorShapeProto]


def _same(node: NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Drops attributes at their default: opsets 14 and 15 added only these attributes and further types."""
    for name in ("training_mode", "allowzero", "start"):
        _drop(node, name, 0)
    return not {a.name for a in node.attribute} & {"training_mode", "allowzero", "start", "end"}


def _pad(node: NodeProto, constants: Constants, shapes: Shapes) -> bool:
    return not any(node.input[3:])  # axes


def _resize(node: NodeProto, constants: Constants, shapes: Shapes) -> bool:
    _drop(node, "antialias", 0)
    _drop(node, "keep_aspect_ratio_policy", b"stretch")
    return not {a.name for a in node.attribute} & {"antialias", "keep_aspect_ratio_policy", "axes"}


def _split(node: NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Replaces the number of parts with their sizes. Refuses a free size, because the last part may be smaller."""
    if any(node.input[1:]):
        return True
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    sizes = [shapes[name].dim[axis].dim_value for name in node.output if name in shapes]
    if len(sizes) < len(node.output) or not all(sizes):
        return False
    name = f"{node.output[0]}{SIZES}"
    constants[name] = numpy_helper.from_array(np.array(sizes, np.int64), name)
    node.input.append(name)
    _drop(node, "num_outputs", len(sizes))
    return True


def _reduce(node: NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Turns the axes of a reduction into an attribute."""
    axes = node.input[1] if len(node.input) > 1 else ""
    _drop(node, "noop_with_empty_axes", 0)
    if any(a.name == "noop_with_empty_axes" for a in node.attribute) or (axes and axes not in constants):
        return False
    if axes:
        node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(constants[axes]).tolist()))
    del node.input[1:]
    return True


REWRITTEN: dict[str, Callable[[NodeProto, Constants, Shapes], bool]] = {
    "Pad": _pad, "Resize": _resize, "Split": _split,
    **dict.fromkeys(("Add", "BatchNormalization", "CumSum", "Div", "Mul", "Relu", "Reshape", "Shape", "Sub"), _same),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
         "ReduceSumSquare"), _reduce,
    ),
}  # fmt: skip


def _drop(node: NodeProto, name: str, default: object) -> None:
    """Removes an attribute that has its default value."""
    for attribute in [a for a in node.attribute if a.name == name and helper.get_attribute_value(a) == default]:
        node.attribute.remove(attribute)


def _spelt_out(node: NodeProto, opset: int, graph: GraphProto) -> list[NodeProto]:
    """The older operators that compute a younger operator."""
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
    """A layer norm in older operators, over the last axes (Ba et al. 2016, eq. 4).

    The nodes compute `(x - mean) / sqrt(variance + epsilon) * scale + bias`.
    """
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    x, scale, *bias = node.input
    y, *others = node.output
    axis = given.get("axis", -1)
    if axis >= 0 or any(others):
        return [node]  # torch's exporter never writes this form
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
