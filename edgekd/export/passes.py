"""Rewrites between torch's exporter and the file. Each function changes the model in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir.passes.common as common
from onnxscript import ir

from edgekd.errors import ExportError

SUFFIX = "_quantized"
WRAPPER = "model."
BEFORE = "preprocess."
"""The prefix that `Deployed` adds to names of the preprocessing; `WRAPPER` is the prefix of the model's names."""
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's key for the modules that an operator comes from
INT32_LIMIT = 2.0**30
FILTERS = 16  # with fewer filters a convolution's padded image was measured not to pay (docs/quantization.md)


class QuantizedTensor(NamedTuple):
    """A quantized activation: its name in the converted graph, its scale and its zero-point."""

    name: str
    scale: float
    zero_point: int


def simplify(model: ir.Model) -> None:
    """Simplifies the exporter's graph: global average pools by name, weights stored as the layers read them.

    No operator then stands between a DQ and its layer.
    """
    for node in list(model.graph):
        if node.op_type == "ReduceMean":
            if not node.attributes.get_int("noop_with_empty_axes", 0):
                node.attributes.pop("noop_with_empty_axes", None)  # 0 is the default, and older opsets lack it
            _name_global_pool(node)
        elif node.op_type == "Transpose":
            _transpose_stored_weight(model, node)
        elif node.op_type == "Shape":
            _read_shape_behind_cast(model, node)
        elif node.op_type == "Cast" and (stored := _value(node.inputs[0])) is not None:
            # The exporter computes constants of at most 8192 numbers, so larger zero-points still have a cast.
            kind = ir.DataType(node.attributes.get_int("to", 0))
            constant = new_constant(model, str(node.outputs[0].name), stored.astype(kind.numpy()))
            node.outputs[0].replace_all_uses_with(constant)
        elif node.op_type == "Reshape":
            shape = _value(node.inputs[1])
            if shape is not None and 0 not in shape:
                node.attributes.pop("allowzero", None)  # meaningless without a 0, and older parsers lack it
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = _value(node.inputs[1])
            if scale is not None and scale.ndim == 0:
                node.attributes.pop("axis", None)


def _read_shape_behind_cast(model: ir.Model, node: ir.Node) -> None:
    """Reads a uint8 input's shape from the input's cast, because TensorRT reads uint8 in a Cast only."""
    value = node.inputs[0]
    if value is None or value.dtype != ir.DataType.UINT8:
        return
    cast = next((reader for reader, _ in value.uses() if reader.op_type == "Cast"), None)
    if cast is not None:
        node.replace_input_with(0, cast.outputs[0])
        model.graph.sort()


def name_sites(
    model: ir.Model, tensors: Sequence[QuantizedTensor], weights: Sequence[tuple[str, np.ndarray]] = ()
) -> None:
    """Names each Q/DQ pair after the tensor of the converted graph that the pair quantizes.

    The exporter keeps the operators' order. Scale and zero-point are compared, so ExportError is raised for a node that was
    lost, doubled or changed. `weights` are the names and scales of the stored weights.
    """
    nodes = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    exported = [(np.float32(_value(n.inputs[1])), int(_value(n.inputs[2]))) for n in nodes]  # type: ignore[arg-type]
    trained = [(np.float32(t.scale), t.zero_point) for t in tensors]
    if exported != trained:
        raise ExportError(
            f"the export has {len(exported)} quantized activations, the model {len(trained)}, and they differ: "
            "what was trained would not ship"
        )
    for node, tensor in zip(nodes, tensors, strict=True):
        node.outputs[0].name = tensor.name + SUFFIX
        dequantizers = [user for user, _ in node.outputs[0].uses()]
        for index, user in enumerate(dequantizers):
            user.outputs[0].name = tensor.name + "_dequantized" + (f"_{index}" if index else "")
        _own_parameters(model, tensor.name, [node, *dequantizers])
    dequantizers = [n for n in model.graph if n.op_type == "DequantizeLinear" and _value(n.inputs[0]) is not None]
    # The exporter stores equal integers once and merges equal dequantizers. The weights in `left` lost theirs this way.
    stored = {_stored_name(node) for node in dequantizers}
    left = [weight for weight in weights if weight[0] not in stored]
    for node in dequantizers:
        scale = _value(node.inputs[1])
        readers = list(node.outputs[0].uses())
        if (its := _scale_of(_stored_name(node), weights)) is not None and not np.array_equal(its, scale):  # type: ignore[arg-type]
            _name_weight(model, node, _next_alike(left, scale) or _stored_name(node))
        else:
            _name_weight(model, node, _stored_name(node))
        for layer, index in readers[1:]:
            if (twin := _next_alike(left, scale)) is None:
                break
            own = ir.node("DequantizeLinear", list(node.inputs))
            own.attributes.update(node.attributes)
            model.graph.insert_before(layer, own)
            layer.replace_input_with(index, own.outputs[0])
            _name_weight(model, own, twin)


def _stored_name(dequantizer: ir.Node) -> str:
    """The name of the parameter whose integers a dequantizer reads."""
    stored = dequantizer.inputs[0]
    assert stored is not None
    return str(stored.name).removeprefix(WRAPPER).removesuffix(SUFFIX)


def _next_alike(left: list[tuple[str, np.ndarray]], scale: np.ndarray | None) -> str | None:
    """The first weight in `left` with this scale, removed from `left`; None without such a weight."""
    for index, (name, its) in enumerate(left):
        if scale is not None and np.array_equal(its, scale):
            del left[index]
            return name
    return None


def _scale_of(name: str, weights: Sequence[tuple[str, np.ndarray]]) -> np.ndarray | None:
    return next((scale for other, scale in weights if other == name), None)


def _name_weight(model: ir.Model, node: ir.Node, weight: str) -> None:
    """Names a weight's dequantizer after the weight, and gives it separate constants if its integers have another name."""
    if _stored_name(node) != weight:
        integers = _value(node.inputs[0])
        assert integers is not None
        node.replace_input_with(0, new_constant(model, weight + SUFFIX, integers))
    node.outputs[0].name = weight + "_dequantized"
    _own_parameters(model, weight, [node])


def _own_parameters(model: ir.Model, name: str, nodes: Sequence[ir.Node]) -> None:
    """Gives a site its own scale and zero-point.

    The exporter shares equal constants. With `session.x64quantprecision` onnxruntime 1.31 fails if two weights share a
    zero-point ("Attempt to replace the existing tensor").
    """
    for index, part in ((1, "_scale"), (2, "_zero_point")):
        array = _value(nodes[0].inputs[index])
        assert array is not None
        own = new_constant(model, name + part, array)
        for node in nodes:
            node.replace_input_with(index, own)


def quantize_biases(model: ir.Model) -> None:
    """Stores biases as int32 with scale `s_x * s_w`, the scale of the integer accumulator."""
    found = [(node, *parts) for node in model.graph if (parts := _float_bias(node)) is not None]
    for _, x, weight, bias in found:  # all first: two layers may share a weight
        _widen_scale(x, weight, bias)
    for node, x, weight, bias in found:
        scale = (_value(x.inputs[1]) * _value(weight.inputs[1])).astype(np.float32)  # type: ignore[operator]
        integers = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
        name = str(node.inputs[2].name).removeprefix(WRAPPER)  # type: ignore[union-attr]
        quantized = new_constant(model, name + SUFFIX, integers)
        dequantize = ir.node(
            "DequantizeLinear",
            [quantized, new_constant(model, name + "_scale", scale)],
            attributes={"axis": 0} if scale.ndim else None,
        )
        # A layer that runs twice has two biases, each with the scale of its input.
        dequantize.outputs[0].name = str(quantized.name).replace(SUFFIX, "_dequantized")
        model.graph.insert_before(node, dequantize)
        node.replace_input_with(2, dequantize.outputs[0])


def _float_bias(node: ir.Node) -> tuple[ir.Node, ir.Node, np.ndarray] | None:
    """The dequantizers of an integer layer's input and weight, and its float bias. None for other nodes."""
    if node.op_type not in ("Conv", "Gemm") or len(node.inputs) < 3:
        return None
    x, weight = (value.producer() if value is not None else None for value in node.inputs[:2])
    bias = _value(node.inputs[2])
    if bias is None or x is None or weight is None or not (_is_dequantize(x) and _is_dequantize(weight)):
        return None
    return None if _value(x.inputs[1]) is None or _value(weight.inputs[1]) is None else (x, weight, bias)


def pad_channels(model: ir.Model, channels: int) -> None:
    """Pads the input of convolutions with few channels (an image) to `channels`, with zeros in input and weight.

    The sums stay the same, bit for bit. Only convolutions with overlapping windows and many filters are padded; for others
    the padding costs more than it saves.
    """
    for node in list(model.graph):
        if node.op_type != "Conv" or node.attributes.get_int("group", 1) != 1:
            continue
        x, weight = (value.producer() if value is not None else None for value in node.inputs[:2])
        if x is None or weight is None or not (_is_dequantize(x) and _is_dequantize(weight)):
            continue
        stored, pixels = weight.inputs[0], x.inputs[0]
        integers = _value(stored)
        if integers is None or stored is None or pixels is None or integers.shape[1] >= channels:
            continue
        if any(len(value.uses()) != 1 for value in (x.outputs[0], weight.outputs[0], stored)):
            continue  # another node reads the unpadded image or weight
        filters, *_, kernel = integers.shape
        if filters < FILTERS or node.attributes.get_ints("strides", (1,))[-1] >= kernel or _value(pixels) is not None:
            continue
        wider = [(0, 0), (0, channels - integers.shape[1]), *[(0, 0)] * (integers.ndim - 2)]
        stored.const_value = ir.tensor(np.pad(integers, wider), name=stored.name)
        stored.shape = ir.Shape([integers.shape[0], channels, *integers.shape[2:]])
        ends = np.array([[before for before, _ in wider], [after for _, after in wider]], np.int64)
        pad = ir.node("Pad", [pixels, new_constant(model, f"{pixels.name}_pads", ends.ravel()), x.inputs[2]])
        pad.outputs[0].name = f"{pixels.name}_padded"
        model.graph.insert_before(x, pad)
        x.replace_input_with(0, pad.outputs[0])
        x.outputs[0].shape = weight.outputs[0].shape = None  # their shapes have changed


def part_integer_weights(model: ir.Model) -> None:
    """Stores a separate copy of an integer weight for each reading layer, as `NAME.copyN`.

    On processors with AVX2 only, onnxruntime 1.31 rewrites int8 weights as uint8. It then cannot load a graph in which two
    layers share a weight ("Attempt to replace the existing tensor").
    """
    taken: set[ir.Value] = set()
    for node in [node for node in model.graph if node.op_type == "DequantizeLinear"]:
        stored, integers = node.inputs[0], _value(node.inputs[0])
        if stored is None or integers is None:
            continue
        for number, (layer, index) in enumerate(list(node.outputs[0].uses()), 1):
            if stored not in taken:
                taken.add(stored)
                continue
            arrays = [(str(value.name), _value(value)) for value in node.inputs if value is not None]
            copies = [new_constant(model, f"{name}.copy{number}", array) for name, array in arrays if array is not None]
            own = ir.node("DequantizeLinear", copies)
            own.attributes.update(node.attributes)
            own.outputs[0].name = f"{node.outputs[0].name}.copy{number}"
            model.graph.insert_before(layer, own)
            layer.replace_input_with(index, own.outputs[0])
        if not node.outputs[0].uses():
            model.graph.remove(node, safe=True)


def clean(model: ir.Model, *, name_preprocessing: bool = False) -> None:
    """Removes unread nodes, the exporter's metadata and source paths, and numbers the nodes' names.

    With `name_preprocessing` the names of the preprocessing's operators begin with "preprocess.", which edgekd.export.to_half
    reads. An operator before one of them belongs to it too, whatever the exporter's rewrites left of its origin.
    """
    first = preprocessing(model) if name_preprocessing else set()
    _unwrap_names(model)
    for run in (
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.TopologicalSortPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        run(model)
    counts: dict[str, int] = {}
    for node in model.graph:
        counts[node.op_type] = counts.get(node.op_type, -1) + 1
        node.name = f"{BEFORE if node in first else ''}{node.op_type}_{counts[node.op_type]}"
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        for value in node.outputs:
            value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = "model"
    model.producer_name, model.producer_version, model.doc_string = "edgekd", "", ""


def preprocessing(model: ir.Model) -> set[ir.Node]:
    """The operators that the exporter made from the preprocessing's module, and all that they depend on."""
    found: set[ir.Node] = set()
    scope = BEFORE.removesuffix(".")
    waiting = [node for node in model.graph if f"'{scope}'" in node.metadata_props.get(SCOPES, "")]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [maker for value in node.inputs if value is not None and (maker := value.producer()) is not None]
    return found


def _unwrap_names(model: ir.Model) -> None:
    """Gives the weights the names that they have in the model and the preprocessing, and stores the latter's first."""
    stored = [(str(value.name), value) for value in model.graph.initializers.values()]
    wrapped = {start: [name for name, _ in stored if name.startswith(start)] for start in (WRAPPER, BEFORE)}
    names = {name: name for name, _ in stored if not name.startswith((WRAPPER, BEFORE))}
    # The model's names are names of sites. If two names clash, the preprocessing's keeps its prefix.
    for start, found in wrapped.items():
        taken = set(names.values())
        names |= {name: short if (short := name.removeprefix(start)) not in taken else name for name in found}
    model.graph.initializers.clear()
    for name, value in sorted(stored, key=lambda item: (item[0] in wrapped[WRAPPER]) - (item[0] in wrapped[BEFORE])):
        value.name = names[name]
        model.graph.register_initializer(value)


def _name_global_pool(node: ir.Node) -> None:
    """Turns a mean over height and width into GlobalAveragePool, which has integer kernels."""
    axes = _value(node.inputs[1]) if len(node.inputs) > 1 else None
    shape = node.inputs[0].shape  # type: ignore[union-attr]
    keep = node.attributes.get_int("keepdims", 1)
    if axes is None or shape is None or len(shape) != 4 or keep != 1 or {int(a) % 4 for a in axes} != {2, 3}:
        return
    node.op_type = "GlobalAveragePool"
    node.attributes.clear()
    node.resize_inputs(1)


def _transpose_stored_weight(model: ir.Model, node: ir.Node) -> None:
    """Rewrites Transpose(DQ(w)) as DQ(w transposed)."""
    source = node.inputs[0]
    dequantize = source.producer() if source is not None else None
    if not _is_dequantize(dequantize) or dequantize is None or len(dequantize.outputs[0].uses()) != 1:
        return
    weight = _value(dequantize.inputs[0])
    if weight is None:
        return
    order = node.attributes.get_ints("perm", tuple(reversed(range(weight.ndim))))
    scale = _value(dequantize.inputs[1])
    if scale is not None and scale.ndim == 1:
        axis = dequantize.attributes.get_int("axis", 1) % weight.ndim
        dequantize.attributes["axis"] = ir.AttrInt64("axis", list(order).index(axis))
    name = str(dequantize.inputs[0].name)  # type: ignore[union-attr]
    del model.graph.initializers[name]
    dequantize.replace_input_with(0, new_constant(model, name, np.ascontiguousarray(weight.transpose(order))))
    dequantize.outputs[0].shape = node.outputs[0].shape
    node.outputs[0].replace_all_uses_with(dequantize.outputs[0])
    model.graph.remove(node)


def _widen_scale(x: ir.Node, weight: ir.Node, bias: np.ndarray) -> None:
    """Widens the scale of a channel with tiny weights and a large bias: the bias then fits into 32 bits."""
    s_x, s_w = _value(x.inputs[1]), _value(weight.inputs[1])
    assert s_x is not None and s_w is not None
    least = (np.abs(bias) / (INT32_LIMIT * s_x)).astype(np.float32)
    if s_w.ndim == 0:
        least = least.max(initial=0).astype(np.float32)
    wider: np.ndarray = np.maximum(s_w, least)
    if np.array_equal(wider, s_w):
        return
    stored, scale = weight.inputs[0], weight.inputs[1]
    integers = _value(stored)
    assert integers is not None and stored is not None and scale is not None
    shape = [1] * integers.ndim
    if wider.ndim:
        shape[weight.attributes.get_int("axis", 1)] = -1
    smaller = np.rint(integers * (s_w / wider).reshape(shape)).astype(np.int8)
    for value, array in ((stored, smaller), (scale, wider)):
        value.const_value = ir.tensor(array, name=value.name)


def _is_dequantize(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"


def _value(value: ir.Value | None) -> np.ndarray | None:
    """A constant's array; None for a tensor that depends on the input."""
    if value is None or value.const_value is None:
        return None
    array: np.ndarray = value.const_value.numpy()
    return array


def new_constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer."""
    while name in model.graph.initializers:
        name += "_"
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    model.graph.register_initializer(value)
    return value
