"""to_fp16, to_bf16: write an ONNX file with 16-bit weights and arithmetic, and unchanged inputs and outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript import ir

from edgekd.errors import ExportError
from edgekd.export.passes import BEFORE
from edgekd.export.to_onnx import opset_of, write
from edgekd.export.values import largest_values
from edgekd.runtime.check import read_onnx, types_of

FP16_MAX = 65504.0
FP16_LEAST_NORMAL = 2.0**-14
BF16_OPSET = 22
"""The first opset of ONNX with convolutions and pools in bf16."""
SAFE = 512.0
"""The largest value that is safe in half precision, which has 11 bits.

Beyond 512 its steps are 0.5, and sums of such values soon leave its range.
"""
# These operators add nothing up, so they are safe up to the range of half precision, unless they read float32 anyway. The
# same holds for a layer with integer operands.
NO_SUMS = ("QuantizeLinear", "DequantizeLinear", "Relu", "Clip", "MaxPool", "Transpose", "Reshape", "Flatten", "Concat")
# Operators that turn camera bytes into the network's input or logits into probabilities stay float32: they cost nothing,
# and half precision would lose bits of the pixels and of small probabilities. The type of the graph's input
# tells where they end for bytes. The operators that preprocess floats, as of sounds, are known by their names
# (edgekd.export.passes).
PREPROCESSING = ("Cast", "Transpose", "Div", "Sub", "Mul", "Add")
KEPT = ("Softmax", "LogSoftmax")
NAMES: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
TENSORS: dict[int, str] = {TensorProto.FLOAT16: "tensor(float16)", TensorProto.BFLOAT16: "tensor(bfloat16)"}
DTYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
}


@dataclass(frozen=True)
class Kept:
    """An operator that stays float32, because 16 bits cannot hold its values or ONNX has no 16-bit form."""

    node: str
    operator: str
    why: str


def to_fp16(
    src_path: str | os.PathLike[str],
    dst_path: str | os.PathLike[str],
    samples: NDArray[Any] | Mapping[str, NDArray[Any]] | None = None,
) -> list[Kept]:
    """Writes `src_path`'s graph to `dst_path` in half precision, between its first and last operators.

    Inputs and outputs keep their types and names; preprocessing and softmax stay float32. Scales of Q/DQ become half
    precision too, which takes opset 19. An operator stays float32 if a weight lies beyond 65504 or a scale below 6.1e-05.
    It stays float32 also if a value exceeds 512 on `samples`, or if ONNX defines it for float32 only. These operators are
    returned with the reason. `samples` are real rows `[n, ...]` as the file takes them, by input's name; a single array
    belongs to the first input.

    Raises ExportError for a file that is not a valid model and for a quantized graph before opset 19. Raises DataError if
    the file does not take the samples.
    """
    model = read_onnx(src_path)
    opset = opset_of(model)
    if opset < 19 and any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportError(f"half-precision scales of quantized tensors need opset 19, the model has {opset}")
    _name_nodes(model)
    _widen_scales(model.graph)
    kept = unsafe_nodes(model, values_on(src_path, samples))
    known = {found.node for found in kept}
    types = types_of(src_path)
    kept += [found for found in _without_type(model, TensorProto.FLOAT16, types) if found.node not in known]
    kept = _of_the_model(kept)
    in_fp32 = with_dequantizers(model.graph, {found.node for found in kept})
    _Halved(model, types, TensorProto.FLOAT16, in_fp32).rewrite()
    write(model, dst_path)
    return kept


def to_bf16(src_path: str | os.PathLike[str], dst_path: str | os.PathLike[str]) -> list[Kept]:
    """Writes `src_path`'s float graph to `dst_path` in bfloat16, between its first and last operators.

    Inputs, outputs, preprocessing and softmax are kept as by `to_fp16`. bfloat16 has the range of float32, but 8 bits where
    fp16 has 11. An operator stays float32, and is returned, only if ONNX has no bfloat16 form of it.

    Raises ExportError for a file that is not a valid model or is quantized, and for an opset before 22. Before 22
    convolutions have no bf16.
    """
    model = read_onnx(src_path)
    if (opset := opset_of(model)) < BF16_OPSET:
        raise ExportError(f"convolutions in bf16 need opset {BF16_OPSET}, the model has {opset}")
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportError(f"{src_path} is quantized; between integers edgekd writes fp16: use to_fp16")
    _name_nodes(model)
    types = types_of(src_path)
    kept = _of_the_model(_without_type(model, TensorProto.BFLOAT16, types))
    _Halved(model, types, TensorProto.BFLOAT16, {found.node for found in kept}).rewrite()
    write(model, dst_path)
    return kept


def _of_the_model(kept: list[Kept]) -> list[Kept]:
    """Without those of the preprocessing, which is float32 anyway."""
    return [found for found in kept if not found.node.startswith(BEFORE)]


def _name_nodes(model: onnx.ModelProto) -> None:
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"


def values_on(
    path: str | os.PathLike[str], samples: NDArray[Any] | Mapping[str, NDArray[Any]] | None
) -> dict[str, float]:
    """Tensor -> its largest magnitude, for all outputs of nodes and all float inputs. Empty without samples.

    `samples` are rows by input's name, or rows of the first input. Raises DataError if the file does not take them.
    """
    if samples is None:
        return {}
    typed = ir.load(path)
    ShapeInferencePass()(typed)
    rows = samples if isinstance(samples, Mapping) else {str(typed.graph.inputs[0].name): samples}
    largest = largest_values(typed, rows, "the model")
    read = {name: array for name, array in rows.items() if array.dtype.kind == "f"}
    return largest | {name: float(np.abs(array).max(initial=0)) for name, array in read.items()}


def unsafe_nodes(model: onnx.ModelProto, largest: dict[str, float]) -> list[Kept]:
    """The operators that half precision would harm. `largest` comes from `values_on`."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    kept: list[Kept] = []
    in_fp32: set[str] = set()
    for node in model.graph.node:
        reasons = []
        in_integers = len(node.input) > 1 and set(node.input[:2]) <= dequantized
        follows = node.op_type in NO_SUMS and not in_fp32 & set(node.input)
        safe = FP16_MAX if follows or in_integers else SAFE
        for name in (*node.input, *node.output):
            if name in stored and stored[name].data_type == TensorProto.FLOAT:
                array = np.abs(numpy_helper.to_array(stored[name]))
                if not array.max(initial=0) <= FP16_MAX:
                    reasons.append(f"'{name}' holds {array.max():g}, half precision at most 65504")
                elif _is_scale(node, name) and array.min(initial=1) < FP16_LEAST_NORMAL:
                    reasons.append(f"'{name}' is {array.min():.2g}, half precision has full precision from 6.1e-05 on")
            elif largest.get(name, 0.0) > safe:
                reasons.append(f"'{name}' reaches {largest[name]:.4g}, safe is up to {safe:g}")
        if reasons:
            kept.append(Kept(node.name, node.op_type, "; ".join(reasons)))
            in_fp32.update(node.output)
    return kept


def _without_type(model: onnx.ModelProto, half: int, types: Mapping[str, int]) -> list[Kept]:
    """The operators without a 16-bit form in ONNX at the model's opset.

    Operators without a float output are left out.
    """
    opset = opset_of(model)
    return [
        Kept(node.name, node.op_type, f"opset {opset} of ONNX has no {node.op_type} in {NAMES[half]}")
        for node in model.graph.node
        if not all(_takes(taken, half) for taken in _types_of(node, opset, outputs=True)[: len(node.output)])
        and any(types.get(name, TensorProto.FLOAT) == TensorProto.FLOAT for name in node.output)
    ]


def _takes(types: set[str], half: int) -> bool:
    """Whether a type set that allows float32 also allows the 16-bit type."""
    return "tensor(float)" not in types or TENSORS[half] in types


def _types_of(node: onnx.NodeProto, opset: int, *, outputs: bool = False) -> list[set[str]]:
    """The allowed types of each input, or each output, of an operator. Empty if ONNX does not define the operator."""
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return []
    schema = onnx.defs.get_schema(node.op_type, opset)
    constraints = {of.type_param_str: set(of.allowed_type_strs) for of in schema.type_constraints}
    formal = [constraints.get(of.type_str, {of.type_str}) for of in (schema.outputs if outputs else schema.inputs)]
    more = len(node.output if outputs else node.input) - len(formal)
    return formal + formal[-1:] * more  # the last formal input or output may be variadic


def with_dequantizers(graph: onnx.GraphProto, kept: set[str]) -> set[str]:
    """The kept nodes and the DequantizeLinear nodes that they read.

    A cast between the two would separate a layer from its integers.
    """
    makers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    read = {name for node in graph.node if node.name in kept for name in node.input}
    return kept | {makers[name].name for name in read if name in makers}


def _is_scale(node: onnx.NodeProto, name: str) -> bool:
    return node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[1] == name


def _widen_scales(graph: onnx.GraphProto) -> None:
    """Raises tiny weight scales to the least that half precision holds, and rounds the integers again."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            continue
        integers, scale = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
        wider = np.maximum(scale, np.float32(FP16_LEAST_NORMAL))
        if integers.dtype != np.int8 or np.array_equal(wider, scale):
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if i == axis % integers.ndim and scale.ndim else 1 for i in range(integers.ndim)]
        fewer = np.rint(integers * (scale / wider).reshape(shape)).astype(np.int8)
        for name, array in ((node.input[0], fewer), (node.input[1], wider)):
            stored[name].CopyFrom(numpy_helper.from_array(array, name))


class _Halved:
    """A pass over a graph in order. It tracks the tensors in float32 and in 16 bits, of the type `half`."""

    def __init__(self, model: onnx.ModelProto, original: Mapping[str, int], half: int, kept: set[str]) -> None:
        self.graph = graph = model.graph
        self.opset = opset_of(model)
        self.half = half
        self.kept = kept
        self.original = original
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self.types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.taken = {*self.types, *(name for node in graph.node for name in node.output)}
        self.nodes: list[onnx.NodeProto] = []
        self.copies: dict[tuple[str, int], str] = {}

    def rewrite(self) -> None:
        outputs = {value.name for value in self.graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        raw = {value.name for value in self.graph.input if value.type.tensor_type.elem_type != TensorProto.FLOAT}
        for node in list(self.graph.node):
            unread = [name for name in node.input if name and name not in self.weights]
            keeps = node.op_type in KEPT or node.name in self.kept or node.name.startswith(BEFORE)
            if node.op_type in PREPROCESSING and unread and all(name in raw for name in unread):
                raw.update(node.output)
                keeps = True
            self._rewrite_node(node, TensorProto.FLOAT if keeps else self.half)
            for index, name in enumerate(node.output):
                if name in outputs and self.types.get(name) == self.half:
                    node.output[index] = short = self._new_name(name, self.half)
                    self.types[name], self.types[short] = TensorProto.FLOAT, self.half
                    self.copies[name, self.half] = short  # the 16-bit tensor for the other readers
                    self.nodes.append(
                        onnx.helper.make_node("Cast", [short], [name], name=f"{name}_cast", to=TensorProto.FLOAT)
                    )
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]
        read = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.weights.values() if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _rewrite_node(self, node: onnx.NodeProto, wanted: int) -> None:
        types = _types_of(node, self.opset)
        for index, name in enumerate(node.input):
            fixed = bool(types) and not _takes(types[index], self.half)  # for example the scales of a Resize
            if self.types.get(name) in NAMES:
                node.input[index] = self._as(name, TensorProto.FLOAT if fixed else wanted)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = wanted
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_cast(attribute.t, wanted, attribute.t.name))
        self.nodes.append(node)
        for name in node.output:
            known = self.original.get(name, TensorProto.FLOAT)
            self.types[name] = wanted if known == TensorProto.FLOAT else known

    def _new_name(self, name: str, wanted: int) -> str:
        new = f"{name}_{NAMES[wanted]}"
        while new in self.taken:
            new += "_"
        self.taken.add(new)
        return new

    def _as(self, name: str, wanted: int) -> str:
        """The tensor in the wanted precision: the tensor itself, a stored copy of a weight, or a cast."""
        if self.types[name] == wanted:
            return name
        if (name, wanted) not in self.copies:
            copy = self.copies[name, wanted] = self._new_name(name, wanted)
            self.types[copy] = wanted
            if name in self.weights:
                self.weights[copy] = _cast(self.weights[name], wanted, copy)
            else:
                self.nodes.append(onnx.helper.make_node("Cast", [name], [copy], name=f"{copy}_cast", to=wanted))
        return self.copies[name, wanted]


def _cast(tensor: TensorProto, wanted: int, name: str) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(DTYPES[wanted]), name)
