"""read_kernels: splits an ONNX graph into a runtime's kernels, each with its arithmetic and its bytes.

Runtimes fuse nodes. An activation and a residual Add run inside the convolution before them. Q and DQ are a tensor's
integer format, and renaming a tensor costs nothing. Fusions that only some runtimes perform are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.inliner

from edgekd.base.external_data import check_external_data
from edgekd.errors import ModelError
from edgekd.export.shapes import SHAPES, Shaped, Sizes, body_of, fix_sizes, loop_inputs, with_shapes
from edgekd.measure.estimate.operations import (
    CONVOLUTIONS,
    MOVES,
    POOLS,
    PRODUCTS,
    RECURRENT,
    TAKERS,
    count,
    factors,
    integer,
)

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Kind = Literal[
    "conv", "narrow conv", "pointwise", "depthwise", "grouped", "transposed conv", "matmul", "recurrent", "elementwise", "pool",
    "move",
]  # fmt: skip

BYTES: dict[int, int] = {
    onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.BFLOAT16: 2, onnx.TensorProto.INT8: 1,
    onnx.TensorProto.UINT8: 1, onnx.TensorProto.INT32: 4, onnx.TensorProto.INT64: 8, onnx.TensorProto.BOOL: 1,
    onnx.TensorProto.DOUBLE: 8, onnx.TensorProto.INT16: 2, onnx.TensorProto.UINT16: 2, onnx.TensorProto.UINT64: 8,
}  # fmt: skip
RENAMING = frozenset(
    ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Constant", "QuantizeLinear", "DequantizeLinear")
)  # fmt: skip
ACTIVATIONS = frozenset(
    ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Erf", "Gelu")
)
SIZES = ("Shape", "Size", "ConstantOfShape", "Range")  # constant if shapes are known
INTO = ("conv", "narrow conv", "pointwise", "depthwise", "grouped", "transposed conv", "matmul")
BODIES = ("If", "Loop", "Scan")
MULTIPLIES = (*INTO, "recurrent")
ENDLESS = 2**31  # a trip count from here on means "until the condition ends the loop"
NARROW = 8  # input channels below which vector units idle along them: a network's first convolution


@dataclass(frozen=True)
class Kernel:
    """The work of a kernel for a sample.

    operations: a multiply-add counts two. bytes: the least that the kernel moves. channels: those of a convolution that
    vector units run along. runs: how often the kernel starts, in a loop; operations and bytes are those of all runs.
    """

    name: str
    kind: Kind
    precision: Precision
    operations: int
    bytes: int
    channels: tuple[int, ...] = ()
    runs: int = 1

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.operations / self.bytes if self.bytes else 0.0

    def filled(self, lanes: int) -> float:
        """The operations with every channel count rounded up to full vectors of `lanes`: 12 channels cost as much as 16."""
        return self.operations * math.prod(-(-channels // lanes) * lanes / channels for channels in self.channels)


@dataclass(frozen=True)
class Work:
    """The work of a file for a sample. Of an If, `kernels` holds the dearer branch, `least` the cheaper.

    unknown: nodes that are not counted, or loops of unknown length. assumptions: sentences about values that were assumed.
    """

    kernels: tuple[Kernel, ...]
    least: tuple[Kernel, ...]
    unknown: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


@dataclass
class _Open:
    """A kernel that may still absorb nodes, with the tensors that it reads and writes."""

    name: str
    kind: Kind
    precision: Precision
    operations: int
    channels: tuple[int, ...] = ()
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    taken: int = 0  # bytes read of tensors that are not read as a whole


def read_kernels(path: Path) -> tuple[Kernel, ...]:
    """The kernels of a file in the graph's order, for a batch of one. Raises ModelError as `read_work` does."""
    return read_work(path).kernels


def read_work(path: Path, sizes: Sizes | None = None) -> Work:
    """The work of a file for inputs of these sizes, by name. The default is a batch of one.

    Raises ModelError for a file that is not ONNX, and for free sizes (except the batch) without a value in `sizes`.
    """
    try:
        model = _without_weights(path)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        fix_sizes(model, sizes or {}, path)
        return _work(model)
    except ModelError:
        raise
    except (
        Exception
    ) as error:  # errors of protobuf and shape inference share no base class; a damaged graph lacks names and sizes
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"
        raise ModelError(f"{path} cannot be read as an ONNX model ({reason}); `edgekd lint` says more") from error


def _work(model: onnx.ModelProto) -> Work:
    """The work of a model whose inputs have known sizes."""
    shapes = with_shapes(model)
    graph = _Graph(model, shapes)
    kernels: list[_Open] = []
    made_by: dict[str, _Open] = {}
    bodies: list[Work] = []
    unknown: list[str] = []
    for node in model.graph.node:
        if node.op_type in RENAMING or graph.is_constant(node):
            continue
        if node.op_type in BODIES and node.domain in ("", "ai.onnx"):
            bodies.append(_of_bodies(node, graph, model))
            continue
        outputs = [name for name in node.output if name in shapes]
        operations = count(
            node, {name: shape for name in (*node.input, *node.output) if (shape := graph.shape(name)) is not None}
        )
        if operations is None or not outputs:
            unknown.append(f"{node.op_type} {node.name}".strip())
        if not outputs:
            continue
        kernel = graph.fused_into(node, made_by)
        if kernel is not None:
            kernel.reads += [name for name in graph.reads(node) if name not in kernel.writes]
            kernel.writes = outputs
        else:
            kernel = graph.opened(node, operations or 0, outputs)
            kernels.append(kernel)
        made_by.update(dict.fromkeys(outputs, kernel))
    own = tuple(graph.closed(kernel) for kernel in kernels)
    return Work(
        own + tuple(kernel for body in bodies for kernel in body.kernels),
        own + tuple(kernel for body in bodies for kernel in body.least),
        (*unknown, *(name for body in bodies for name in body.unknown)),
        tuple(words for body in bodies for words in body.assumptions),
    )


def _of_bodies(node: onnx.NodeProto, graph: _Graph, model: onnx.ModelProto) -> Work:
    """The work of an If's two branches, or of a Loop's or Scan's body in all its rounds."""
    bodies = {attribute.name: attribute.g for attribute in node.attribute if attribute.HasField("g")}
    title = f"{node.op_type} {node.name or node.output[0]}"
    if node.op_type == "If":
        ways = [_work(body_of(bodies[name], [], graph.shapes, model)) for name in ("then_branch", "else_branch")]
        cheap, dear = sorted(
            ways, key=lambda way: (sum(k.operations for k in way.kernels), sum(k.bytes for k in way.kernels))
        )
        assumption = f"{title}: the low end is of its cheaper branch, the high one of its dearer"
        return Work(
            dear.kernels, cheap.least, dear.unknown + cheap.unknown, (assumption, *dear.assumptions, *cheap.assumptions)
        )
    inputs, trips, certain = _rounds(node, graph)
    body = _work(body_of(bodies["body"], inputs, graph.shapes, model))
    if trips is None:
        once = f"{title}: how often it runs is unknown"
        return Work(body.kernels, body.least if node.op_type == "Scan" else (), (once, *body.unknown), body.assumptions)
    words = () if certain else (f"{title}: the high end is of all {trips} rounds; its condition may end it before",)
    least = tuple(_repeated(kernel, trips) for kernel in body.least) if certain else ()
    return Work(
        tuple(_repeated(kernel, trips) for kernel in body.kernels), least, body.unknown, words + body.assumptions
    )


def _rounds(node: onnx.NodeProto, graph: _Graph) -> tuple[list[Shaped | None], int | None, bool]:
    """The input shapes of a body, the number of rounds (None: unknown), and whether that number is certain."""
    if node.op_type == "Loop":
        trips = graph.scalar(node.input[0])
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        goes_on = _always_true(body.output[0].name, body) and (not node.input[1] or graph.scalar(node.input[1]) == 1)
        return loop_inputs(node, graph.shapes), None if trips is None or trips >= ENDLESS else max(trips, 0), goes_on
    scanned = integer(node, "num_scan_inputs", 1)
    axes = next(
        (list(attribute.ints) for attribute in node.attribute if attribute.name == "scan_input_axes"), [0] * scanned
    )
    state = len(node.input) - scanned
    inputs: list[Shaped | None] = [graph.shapes.get(name) for name in node.input[:state]]
    trips = None
    for name, axis in zip(node.input[state:], axes, strict=True):
        shaped = graph.shapes.get(name)
        inputs.append(shaped and (tuple(np.delete(shaped[0], axis).tolist()), shaped[1]))
        trips = shaped[0][axis] if shaped else trips
    return inputs, trips, True


def _always_true(name: str, body: onnx.GraphProto) -> bool:
    """Whether a body's condition is a true constant, or the condition that the body was given."""
    for node in body.node:
        if name in node.output:
            if node.op_type == "Identity":
                return _always_true(node.input[0], body)
            return node.op_type == "Constant" and bool(onnx.numpy_helper.to_array(node.attribute[0].t).all())
    constants = {tensor.name: tensor for tensor in body.initializer}
    if name in constants:
        return bool(onnx.numpy_helper.to_array(constants[name]).all())
    return bool(name == body.input[1].name)


def _repeated(kernel: Kernel, times: int) -> Kernel:
    return replace(kernel, operations=kernel.operations * times, bytes=kernel.bytes * times, runs=kernel.runs * times)


class _Graph:
    """Shapes, formats and consumers of a graph's tensors. A renamed tensor keeps the name of its origin."""

    def __init__(self, model: onnx.ModelProto, shapes: dict[str, Shaped]) -> None:
        self.shapes = shapes
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.constants = set(self.tensors)
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
                self.tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
            elif node.op_type in SIZES:
                self.constants.update(node.output)
            else:
                self.consumers.update({self._root(name) for name in node.input})

    def _root(self, name: str) -> str:
        return self.root.get(name, name)

    def width(self, name: str) -> int:
        """Bytes of a tensor's element in the device's memory."""
        return 1 if name in self.quantized else BYTES.get(self.shapes[name][1], 4)

    def size(self, name: str) -> int:
        return math.prod(self.shapes[name][0]) * self.width(name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.shapes[name][0] if name in self.shapes else None

    def scalar(self, name: str) -> int | None:
        """The number in a constant of a single element, or None."""
        tensor = self.tensors.get(self._root(name))
        return (
            int(onnx.numpy_helper.to_array(tensor).item())
            if tensor is not None and math.prod(tensor.dims) == 1
            else None
        )

    def is_constant(self, node: onnx.NodeProto) -> bool:
        """Whether a runtime computes a node once, when it loads the model: a node of constants or shapes."""
        if node.op_type in SIZES:
            return True
        names = [name for name in node.input if name]
        if not names or node.op_type in BODIES or not all(self._root(name) in self.constants for name in names):
            return False
        self.constants.update(node.output)
        return True

    def reads(self, node: onnx.NodeProto) -> list[str]:
        return [root for name in node.input if (root := self._root(name)) in self.shapes]

    def opened(self, node: onnx.NodeProto, operations: int, outputs: list[str]) -> _Open:
        """The kernel that starts with a node."""
        kernel = _Open(node.name or outputs[0], self.kind(node), self.precision(node), operations, self.channels(node), self.reads(node), outputs)  # fmt: skip  # noqa: E501
        if node.op_type in TAKERS and self._root(node.input[0]) in self.shapes:
            kernel.reads = [name for name in kernel.reads if name != self._root(node.input[0])]
            kernel.taken = math.prod(self.shapes[node.output[0]][0]) * self.width(self._root(node.input[0]))
        return kernel

    def closed(self, k: _Open) -> Kernel:
        moved = k.taken + sum(map(self.size, [*dict.fromkeys(k.reads), *k.writes]))
        return Kernel(k.name, k.kind, k.precision, k.operations, moved, k.channels)

    def precision(self, node: onnx.NodeProto) -> Precision:
        """The precision of the wider of a node's first two inputs: a product with a float factor is a float product."""
        names = [root for name in factors(node) if (root := self._root(name)) in self.shapes]
        widest = max(names or self.reads(node)[:1], key=self.width, default=None)
        width = 4 if widest is None else self.width(widest)
        if width == 2 and widest is not None and self.shapes[widest][1] == onnx.TensorProto.BFLOAT16:
            return "bf16"
        return "int8" if width == 1 else "fp16" if width == 2 else "fp32"

    def fused_into(self, node: onnx.NodeProto, made_by: Mapping[str, _Open]) -> _Open | None:
        """The kernel that a node is fused into, or None for a separate kernel.

        An Add is fused into a product, an activation into a product or an Add.
        """
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
        weight = self.shape(self._root(factors(node)[1])) if node.op_type in CONVOLUTIONS else None
        if weight is not None and len(weight) > 2:
            if integer(node, "group", 1) > 1:
                return "depthwise" if weight[1] == 1 else "grouped"
            return "narrow conv" if weight[1] < NARROW else "pointwise" if math.prod(weight[2:]) == 1 else "conv"
        if node.op_type == "ConvTranspose":
            return "transposed conv"
        if node.op_type in PRODUCTS:
            return "recurrent" if node.op_type in RECURRENT else "matmul"
        return "pool" if node.op_type in POOLS else "move" if node.op_type in MOVES else "elementwise"

    def channels(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """The channels of a convolution that vectors run along: those of the output, and for full vectors of the input."""
        kind = self.kind(node)
        if kind not in ("conv", "narrow conv", "pointwise", "depthwise"):
            return ()
        outside, inside = self.shapes[self._root(factors(node)[1])][0][:2]
        return (outside, inside) if kind in ("conv", "pointwise") else (outside,)


def _without_weights(path: Path) -> onnx.ModelProto:
    """A model without the weights that lie beside its file, which may be 2 GB.

    Small constants, which hold sizes and axes for shapes, are loaded.
    """
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
