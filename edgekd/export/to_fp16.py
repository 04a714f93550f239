"""to_fp16: an ONNX file whose weights and arithmetic are half precision, its inputs and outputs as they were."""

from __future__ import annotations

import os

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgekd.errors import ExportError
from edgekd.export.to_onnx import write

FP16_MAX = 65504.0
FP16_LEAST_NORMAL = 2.0**-14
# What turns camera bytes into the network's input, and what turns logits into probabilities, keep float32: they cost
# nothing, and half precision would lose bits of the pixel and of small probabilities.
PREPROCESSING = ("Cast", "Transpose", "Div", "Sub", "Mul", "Add")
KEPT = ("Softmax", "LogSoftmax")
# Inputs whose type the operator fixes to float32.
FIXED_INPUTS = {"Resize": (1, 2)}


def to_fp16(src_path: str | os.PathLike[str], dst_path: str | os.PathLike[str]) -> None:
    """Writes `src_path`'s graph to `dst_path` in half precision between its first and last operators.

    Inputs and outputs keep their types and names; preprocessing and softmax stay float32. Scales of Q/DQ become half
    precision too, which takes opset 19.

    Raises ExportError for a weight beyond 65504, for a scale that half precision cannot hold, and for an opset before
    19 where the graph is quantized.
    """
    model = onnx.load(os.fspath(src_path))
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset < 19 and any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportError(f"half-precision scales of quantized tensors need opset 19, the model has {opset}")
    _Halved(model).rewrite()
    write(model, dst_path)


class _Halved:
    """One pass over a graph in order; keeps which tensors are float32 and which half precision."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.original = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self.types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.copies: dict[tuple[str, int], str] = {}

    def rewrite(self) -> None:
        outputs = {value.name for value in self.graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        raw = {value.name for value in self.graph.input if value.type.tensor_type.elem_type != TensorProto.FLOAT}
        for node in list(self.graph.node):
            unread = [name for name in node.input if name and name not in self.weights]
            keeps = node.op_type in KEPT
            if node.op_type in PREPROCESSING and unread and all(name in raw for name in unread):
                raw.update(node.output)
                keeps = True
            self._rewrite_node(node, TensorProto.FLOAT if keeps else TensorProto.FLOAT16)
            for index, name in enumerate(node.output):
                if name in outputs and self.types.get(name) == TensorProto.FLOAT16:
                    node.output[index] = name + "_fp16"
                    self.nodes.append(
                        onnx.helper.make_node(
                            "Cast", [name + "_fp16"], [name], name=f"{name}_cast", to=TensorProto.FLOAT
                        )
                    )
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]
        read = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.weights.values() if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _rewrite_node(self, node: onnx.NodeProto, wanted: int) -> None:
        for index, name in enumerate(node.input):
            fixed = index in FIXED_INPUTS.get(node.op_type, ())
            if self.types.get(name) in (TensorProto.FLOAT, TensorProto.FLOAT16):
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

    def _as(self, name: str, wanted: int) -> str:
        """The tensor in the wanted precision: itself, a stored copy of a weight, or a cast."""
        if self.types[name] == wanted:
            return name
        if (name, wanted) not in self.copies:
            suffix = "_fp16" if wanted == TensorProto.FLOAT16 else "_fp32"
            copy = self.copies[name, wanted] = name + suffix
            self.types[copy] = wanted
            if name in self.weights:
                self.weights[copy] = _cast(self.weights[name], wanted, copy)
            else:
                self.nodes.append(onnx.helper.make_node("Cast", [name], [copy], name=f"{copy}_cast", to=wanted))
        return self.copies[name, wanted]


def _cast(tensor: TensorProto, wanted: int, name: str) -> TensorProto:
    array = numpy_helper.to_array(tensor)
    if wanted == TensorProto.FLOAT16:
        largest = float(np.abs(array).max(initial=0))
        if not largest <= FP16_MAX:
            raise ExportError(f"'{tensor.name}' holds {largest:g}, half precision at most 65504; ship fp32 or int8")
        if tensor.name.endswith("_scale") and float(np.abs(array).min(initial=1)) < FP16_LEAST_NORMAL:
            raise ExportError(f"'{tensor.name}' has a scale below 6.1e-05, which half precision cannot hold; ship int8")
    dtype = np.float16 if wanted == TensorProto.FLOAT16 else np.float32
    return numpy_helper.from_array(array.astype(dtype), name)
