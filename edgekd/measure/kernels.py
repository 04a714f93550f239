"""read_kernels: an ONNX graph as the kernels that a runtime makes of it, each with its arithmetic and its bytes.

Runtimes fuse: an activation and a residual Add run inside the convolution before them, Q and DQ are the integer format of a
tensor, and what only renames a tensor costs nothing. What one runtime fuses beyond that, and another does not, is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx

from edgekd.errors import ModelError
from edgekd.external_data import check_external_data

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Kind = Literal["conv", "narrow conv", "pointwise", "depthwise", "grouped", "matmul", "elementwise", "pool", "move"]

BYTES: dict[int, int] = {
    onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.BFLOAT16: 2, onnx.TensorProto.INT8: 1,
    onnx.TensorProto.UINT8: 1, onnx.TensorProto.INT32: 4, onnx.TensorProto.INT64: 8, onnx.TensorProto.BOOL: 1,
}  # fmt: skip
PRODUCTS = ("Conv", "Gemm", "MatMul")
RENAMING = frozenset(
    ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Constant", "Shape", "QuantizeLinear", "DequantizeLinear")
)  # fmt: skip
ACTIVATIONS = frozenset(
    ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Erf", "Gelu")
)
POOLS = frozenset(
    ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2")
)
MOVES = frozenset(
    (
        "Concat",
        "Transpose",
        "Slice",
        "Split",
        "Resize",
        "Pad",
        "Gather",
        "Tile",
        "Expand",
        "DepthToSpace",
        "SpaceToDepth",
    )
)
INTO = ("conv", "narrow conv", "pointwise", "depthwise", "grouped", "matmul")
SHAPES = 64  # numbers in the largest constant that a shape is read from
NARROW = 8  # input channels below which vector units idle along them: a network's first convolution


@dataclass(frozen=True)
class Kernel:
    """What one kernel does for one sample: `operations` (a multiply-add counts two) and the least bytes that it moves.

    channels: of a convolution, those that vector units run along.
    """

    name: str
    kind: Kind
    precision: Precision
    operations: int
    bytes: int
    channels: tuple[int, ...] = ()

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.operations / self.bytes if self.bytes else 0.0

    def filled(self, lanes: int) -> float:
        """The operations with every channel count rounded up to full vectors of so many lanes: 12 channels cost what 16 do."""
        return self.operations * math.prod(-(-channels // lanes) * lanes / channels for channels in self.channels)


@dataclass
class _Open:
    """A kernel that may still grow: the tensors that it reads and writes."""

    name: str
    kind: Kind
    precision: Precision
    operations: int
    channels: tuple[int, ...] = ()
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)


def read_kernels(path: Path) -> tuple[Kernel, ...]:
    """The kernels of a file, in the graph's order, for a batch of one. Raises ModelError for what is no ONNX file."""
    try:
        return _kernels(_of_one_sample(_without_weights(path)))
    except ModelError:
        raise
    except (
        Exception
    ) as error:  # protobuf and shape inference raise types of their own; a damaged graph lacks names and sizes
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"
        raise ModelError(f"{path} cannot be read as an ONNX model ({reason}); `edgekd lint` says more") from error


def _kernels(model: onnx.ModelProto) -> tuple[Kernel, ...]:
    graph = _Graph(model)
    kernels: list[_Open] = []
    made_by: dict[str, _Open] = {}
    for node in model.graph.node:
        if node.op_type in RENAMING or not any(output in graph.shapes for output in node.output):
            continue
        outputs = [name for name in node.output if name in graph.shapes]
        kernel = graph.fused_into(node, made_by)
        if kernel is not None:
            kernel.reads += [name for name in graph.reads(node) if name not in kernel.writes]
            kernel.writes = outputs
        else:
            kernel = _Open(
                node.name or outputs[0],
                graph.kind(node),
                graph.precision(node),
                graph.operations(node),
                graph.channels(node),
                graph.reads(node),
                outputs,
            )
            kernels.append(kernel)
        made_by.update(dict.fromkeys(outputs, kernel))
    return tuple(
        Kernel(
            k.name,
            k.kind,
            k.precision,
            k.operations,
            sum(map(graph.size, [*dict.fromkeys(k.reads), *k.writes])),
            k.channels,
        )
        for k in kernels
    )


class _Graph:
    """Shapes, formats and consumers of a graph's tensors; a renamed tensor goes by the name it was made under."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.shapes = _shapes(model)
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self.root: dict[str, str] = {}
        self.quantized: set[str] = set()
        self.through_q: set[str] = set()
        self.consumers: Counter[str] = Counter(self._root(value.name) for value in model.graph.output)
        for node in model.graph.node:
            if node.op_type in RENAMING and node.input:
                self.root[node.output[0]] = self._root(node.input[0])
                if node.op_type == "QuantizeLinear":
                    self.quantized.add(self._root(node.input[0]))
                if node.op_type == "QuantizeLinear" or node.input[0] in self.through_q:
                    self.through_q.add(node.output[0])
            elif node.op_type == "Constant":
                self.constants.add(node.output[0])
            else:
                self.consumers.update({self._root(name) for name in node.input})

    def _root(self, name: str) -> str:
        return self.root.get(name, name)

    def width(self, name: str) -> int:
        """Bytes of an element as the device keeps it."""
        return 1 if name in self.quantized else BYTES.get(self.shapes[name][1], 4)

    def size(self, name: str) -> int:
        return math.prod(self.shapes[name][0]) * self.width(name)

    def reads(self, node: onnx.NodeProto) -> list[str]:
        return [root for name in node.input if (root := self._root(name)) in self.shapes]

    def precision(self, node: onnx.NodeProto) -> Precision:
        """That of the widest of its first two inputs: a product with one float factor is a float product."""
        widest = max(self.reads(node)[:2], key=self.width, default=None)
        width = 4 if widest is None else self.width(widest)
        if width == 2 and widest is not None and self.shapes[widest][1] == onnx.TensorProto.BFLOAT16:
            return "bf16"
        return "int8" if width == 1 else "fp16" if width == 2 else "fp32"

    def fused_into(self, node: onnx.NodeProto, made_by: Mapping[str, _Open]) -> _Open | None:
        """The product (for an activation also the Add) that this node runs in; none: it is a kernel of its own."""
        if node.op_type not in ACTIVATIONS and node.op_type != "Add":
            return None
        for name in reversed(node.input):
            kernel = made_by.get(self._root(name))
            alone = self.consumers[self._root(name)] == 1 and name not in self.through_q
            same = self.shapes.get(self._root(name), ((),))[0] == self.shapes[node.output[0]][0]
            fits = kernel is not None and kernel.kind in (INTO if node.op_type == "Add" else (*INTO, "elementwise"))
            if fits and alone and same:
                return kernel
        return None

    def kind(self, node: onnx.NodeProto) -> Kind:
        if node.op_type == "Conv":
            weight, group = self.shapes[self._root(node.input[1])][0], _integer(node, "group", 1)
            if group > 1:
                return "depthwise" if weight[1] == 1 else "grouped"
            return "narrow conv" if weight[1] < NARROW else "pointwise" if math.prod(weight[2:]) == 1 else "conv"
        if node.op_type in ("Gemm", "MatMul"):
            return "matmul"
        return "pool" if node.op_type in POOLS else "move" if node.op_type in MOVES else "elementwise"

    def channels(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """Of a convolution: its output's and, where they fill a vector and are summed over, its input's."""
        kind = self.kind(node)
        if node.op_type != "Conv" or kind == "grouped":
            return ()
        outside, inside = self.shapes[self._root(node.input[1])][0][:2]
        return (outside, inside) if kind in ("conv", "pointwise") else (outside,)

    def operations(self, node: onnx.NodeProto) -> int:
        """Two a multiply-add; of a pool its inputs' elements, of what only moves none, else one an output element."""
        if node.op_type in PRODUCTS:
            return 2 * self._products(node)
        if node.op_type in MOVES:
            return 0
        counted = self.reads(node)[:1] if node.op_type in POOLS else node.output[:1]
        area = math.prod(_integers(node, "kernel_shape")) if node.op_type in ("MaxPool", "AveragePool") else 1
        if area > 1:
            counted = node.output[:1]
        return area * sum(math.prod(self.shapes[name][0]) for name in counted if name in self.shapes)

    def _products(self, node: onnx.NodeProto) -> int:
        output, weight = self.shapes[node.output[0]][0], self.shapes.get(self._root(node.input[1]), ((), 0))[0]
        if node.op_type == "Conv":
            return math.prod(output) * math.prod(weight[1:])
        transposed = node.op_type == "Gemm" and _integer(node, "transB", 0)
        return math.prod(output) * ((weight[-1] if transposed else weight[-2]) if len(weight) > 1 else 1)


def _without_weights(path: Path) -> onnx.ModelProto:
    """A file without the weights that lie beside it, which may be 2 GB, but with the sizes and axes that shapes follow from."""
    check_external_data(path)
    model = onnx.load(path, load_external_data=False)
    if not model.graph.node:
        raise ModelError(f"{path} holds no graph of operators, so it is no ONNX model")
    for tensor in model.graph.initializer:
        if onnx.external_data_helper.uses_external_data(tensor) and math.prod(tensor.dims) <= SHAPES:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def _of_one_sample(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every free dimension of an input is one, and every shape follows from that."""
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[tuple[int, ...], int]]:
    """Each tensor's shape and type."""
    graph = model.graph
    found = {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        found[value.name] = (tuple(dim.dim_value or 1 for dim in tensor.shape.dim), tensor.elem_type)
    return found


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _integers(node: onnx.NodeProto, name: str) -> Sequence[int]:
    return next((attribute.ints for attribute in node.attribute if attribute.name == name), ())
