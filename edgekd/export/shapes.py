"""with_shapes: infers the shapes of an ONNX graph from the sizes of its inputs, through Loop, Scan and If too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from edgekd.errors import ModelError

Shaped = tuple[tuple[int, ...], int]
"""A tensor's shape and element type."""
Sizes = Mapping[str, Sequence[int]]
SHAPES = 64  # largest number of elements of a constant that may hold a shape


def read_sizes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Sizes by name from texts such as `x=1,3,640,640`. Raises ModelError for another form."""
    sizes = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        parts = [part.strip() for part in numbers.split(",")]
        if not name or not all(
            part.isascii() and part.isdigit() and 0 < len(part) < 10 and int(part) > 0 for part in parts
        ):
            raise ModelError(f"--shape {text}; give an input's name and its sizes: --shape x=1,3,640,640")
        sizes[name] = tuple(map(int, parts))
    return sizes


def fix_sizes(model: onnx.ModelProto, sizes: Sizes, path: object) -> None:
    """Fixes every free size of the inputs as in `sizes`; other batches, the first axes, become 1.

    Raises ModelError for free sizes that remain, and for sizes that the model cannot have.
    """
    inputs = _inputs(model)
    tell_sizes(model, sizes, path, batch=1)
    free = []
    for name, value in inputs.items():
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                free.append(f"{name}'s {dim.dim_param or f'axis {axis}'}")
            elif dim.dim_value < 1:
                raise ModelError(f"{path}: axis {axis} of {name} is {dim.dim_value}, so it holds nothing to estimate")
    if free:
        first = next(name for name, value in inputs.items() if any(not d.HasField("dim_value") for d in value.type.tensor_type.shape.dim))  # fmt: skip  # noqa: E501
        dims = inputs[first].type.tensor_type.shape.dim
        example = ",".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
        raise ModelError(f"{path} has free sizes: {', '.join(free)}; give them: --shape {first}={example} in numbers")


def tell_sizes(model: onnx.ModelProto, sizes: Sizes, path: object, *, batch: int | None = None) -> None:
    """Sets the inputs' free sizes as in `sizes`, and other free first axes to `batch`. A symbol has a single size.

    Raises ModelError for sizes that the model cannot have.
    """
    inputs = _inputs(model)
    if unknown := [name for name in sizes if name not in inputs]:
        raise ModelError(f"{path} has no input {unknown[0]}; its inputs: {', '.join(inputs)}")
    known: dict[str, int] = {}
    for name, told in sizes.items():
        dims = inputs[name].type.tensor_type.shape.dim
        if len(told) != len(dims):
            raise ModelError(f"--shape {name}: {len(told)} sizes; {name} has {len(dims)} axes")
        for axis, (dim, wanted) in enumerate(zip(dims, told, strict=True)):
            if dim.HasField("dim_value"):
                if wanted != dim.dim_value:
                    raise ModelError(f"--shape {name}: axis {axis} is {dim.dim_value} in {path}, not {wanted}")
            elif known.setdefault(dim.dim_param or f"{name}:{axis}", wanted) != wanted:
                raise ModelError(
                    f"--shape {name}: {dim.dim_param} is {known[dim.dim_param]} in another input, not {wanted}"
                )
    for name, value in inputs.items():
        for dim in value.type.tensor_type.shape.dim[:1]:
            if batch is not None and not dim.HasField("dim_value"):
                known.setdefault(dim.dim_param or f"{name}:0", batch)
    for name, value in inputs.items():
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            size = known.get(dim.dim_param or f"{name}:{axis}")
            if not dim.HasField("dim_value") and size is not None:
                dim.dim_value = size
    for value in model.graph.value_info:  # the file may name the sizes of values whose shape cannot be inferred
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in known:
                dim.dim_value = known[dim.dim_param]


def _inputs(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """The inputs that the caller provides, by name."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return {value.name: value for value in model.graph.input if value.name not in stored}


def with_shapes(model: onnx.ModelProto) -> dict[str, Shaped]:
    """Shapes and types of the graph's values by name, without unknown ones."""
    graph = model.graph
    own = {output for node in graph.node if node.domain not in ("", "ai.onnx") for output in node.output}
    kept = [value for value in graph.value_info if value.name in own and _shaped(value) is not None]
    for _ in range(4):  # a loop behind another loop needs the shapes of that one
        del graph.value_info[:]
        graph.value_info.extend(kept)
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        shapes = _known_shapes(inferred.graph)
        more = [value for node in graph.node if node.op_type == "Loop" for value in _carried(node, shapes, model)]
        more = [value for value in more if value.name not in shapes]
        if not more:
            break
        kept += more
    return shapes


def body_of(graph: onnx.GraphProto, inputs: Sequence[Shaped | None], outer: Mapping[str, Shaped], model: onnx.ModelProto) -> onnx.ModelProto:  # fmt: skip  # noqa: E501
    """A body as a separate model: its inputs have these shapes, and values of the outer graph become inputs."""
    body = onnx.GraphProto()
    body.CopyFrom(graph)
    for value, shaped in zip(body.input, inputs, strict=False):
        if shaped is not None:
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, shaped[1], shaped[0]))
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own |= {name for node in body.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in sorted(reads_of(graph) - own):
        if name in constants and math.prod(constants[name].dims) <= SHAPES:
            body.initializer.append(constants[name])
        elif name in outer:
            body.input.append(onnx.helper.make_tensor_value_info(name, outer[name][1], outer[name][0]))
    made = onnx.ModelProto()
    made.ir_version = model.ir_version
    made.opset_import.extend(model.opset_import)
    made.graph.CopyFrom(body)
    return made


def reads_of(graph: onnx.GraphProto) -> set[str]:
    """All names that a graph's nodes read, including those of its bodies."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names |= {name for name in node.input if name}
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= reads_of(attribute.g)
    return names


def loop_inputs(node: onnx.NodeProto, shapes: Mapping[str, Shaped]) -> list[Shaped | None]:
    """The inputs of a Loop's body: the iteration, the condition, and the carried values with their shapes."""
    return [((), onnx.TensorProto.INT64), ((), onnx.TensorProto.BOOL), *(shapes.get(name) for name in node.input[2:])]


def _carried(node: onnx.NodeProto, shapes: Mapping[str, Shaped], model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The outputs of a Loop whose shape is the same in each iteration."""
    (graph,) = (attribute.g for attribute in node.attribute if attribute.name == "body")
    inside = with_shapes(body_of(graph, loop_inputs(node, shapes), shapes, model))
    carried = []
    for given, out, name in zip(node.input[2:], list(graph.output)[1:], node.output, strict=False):
        if given in shapes and inside.get(out.name) == shapes[given]:
            carried.append(onnx.helper.make_tensor_value_info(name, shapes[given][1], shapes[given][0]))
    return carried


def _known_shapes(graph: onnx.GraphProto) -> dict[str, Shaped]:
    shapes = {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        if value.name not in shapes and (shaped := _shaped(value)) is not None:
            shapes[value.name] = shaped
    return shapes


def _shaped(value: onnx.ValueInfoProto) -> Shaped | None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim), tensor.elem_type
