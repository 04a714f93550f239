"""Scheme: where a target quantizes. Marks a graph's tensors for torchao, and lists what was marked (`sites`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch.fx import GraphModule, Node

from edgekd.quantize.capture import CONVOLUTIONS, TRANSPOSED, aten, constant_name, is_constant
from edgekd.quantize.pt2e import (
    FakeQuantizeBase,
    ObserverBase,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from edgekd.target import Quantization

LINEAR = (aten.linear.default,)
PRODUCTS = (aten.matmul.default, aten.mm.default, aten.bmm.default)
ADDITIONS = (aten.add.Tensor,)
RELUS = (aten.relu.default, aten.relu6.default, aten.hardtanh.default)
POOLS = (aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default, aten.mean.dim)
# Operators that only move or select values: input and output have the same scale.
MOVES = (
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.view.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.permute.default,
    aten.transpose.int,
    aten.max_pool2d.default,
    aten.dropout.default,
    aten.contiguous.default,
)
CONCATENATIONS = (aten.cat.default, aten.concat.default)

MakeObserver = Callable[[torch.dtype, bool, bool], Any]
"""(dtype, symmetric, per channel) to torchao's observer or fake-quantizer constructor."""


@dataclass(frozen=True, order=True)
class Site:
    """A quantized tensor: the node or parameter that it is, `int8` or `uint8`, one scale or one a channel."""

    tensor: str
    dtype: str
    per_channel: bool


class Scheme(Quantizer):  # type: ignore[misc]
    """A target's rules as torchao annotations.

    `placement = "inputs"` is TensorRT's explicit quantization: the inputs of every convolution and matrix product and
    the skip input of a residual addition (NVIDIA, "Working with Quantized Types", placement recommendations).
    `placement = "every_tensor"` is what onnxruntime fuses into QLinear operators: inputs and outputs of convolutions,
    matrix products, additions and average pools, the output after a ReLU that the operator absorbs; operators that
    only move values pass on the scale. An operator in neither list stays float.
    """

    def __init__(self, quantization: Quantization, make_observer: MakeObserver, in_float: Collection[str] = ()) -> None:
        self.quantization = quantization
        self.in_float = {f"{layer}.weight" for layer in in_float}
        dtype = torch.uint8 if quantization.activation == "uint8" else torch.int8
        symmetric = quantization.activation_symmetric
        low, high = (0, 255) if dtype == torch.uint8 else (-128, 127)
        self.activation = QuantizationSpec(
            dtype=dtype,
            quant_min=low,
            quant_max=high,
            qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
            observer_or_fake_quant_ctr=make_observer(dtype, symmetric, False),
        )
        self.make_observer = make_observer
        # A zero-point of 0 cannot cut at zero: only an affine scale absorbs the ReLU into its lower bound.
        self.absorbs_relu = not symmetric

    def weight(self, axis: int | None) -> QuantizationSpec:
        """-127..127: symmetric, so that the range of a channel does not depend on its sign."""
        per_channel = axis is not None and self.quantization.weight_per_channel
        return QuantizationSpec(
            dtype=torch.int8,
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
            ch_axis=axis if per_channel else None,
            observer_or_fake_quant_ctr=self.make_observer(torch.int8, True, per_channel),
        )

    def annotate(self, model: GraphModule) -> GraphModule:
        if self.quantization.placement == "inputs":
            self._annotate_inputs(model)
        else:
            self._annotate_every_tensor(model)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to refuse: what no rule names stays float."""

    def _operands(self, node: Node) -> dict[Node, QuantizationSpecBase]:
        """The inputs of a convolution or matrix product, each with its specification; empty for other operators."""
        if node.target in CONVOLUTIONS or node.target in LINEAR:
            x, weight = node.args[:2]
            axis: int | None = 0
        elif node.target in TRANSPOSED:
            x, weight = node.args[:2]
            groups = node.args[6] if len(node.args) > 6 else 1
            axis = TRANSPOSED[node.target] if groups == 1 else None
        elif node.target in PRODUCTS:
            x, weight = node.args[:2]
            assert isinstance(weight, Node)
            # onnxruntime and TensorRT take one scale a column of a matrix, but only one in all for a batch of them.
            axis = 1 if weight.meta["val"].dim() == 2 else None
        else:
            return {}
        assert isinstance(x, Node) and isinstance(weight, Node)
        if is_constant(x) or (is_constant(weight) and constant_name(weight) in self.in_float):
            return {}
        return {x: self.activation, weight: self.weight(axis) if is_constant(weight) else self.activation}

    def _annotate_inputs(self, model: GraphModule) -> None:
        depth = _depths(model)
        for node in model.graph.nodes:
            if inputs := self._operands(node):
                _annotate(node, inputs)
            elif _is_residual(node):
                main, skip = node.args[:2]
                # The deeper branch is computed last, and the addition is fused into its last convolution.
                if depth[main] < depth[skip]:
                    main, skip = skip, main
                _annotate(node, {skip: self.activation})

    def _annotate_every_tensor(self, model: GraphModule) -> None:
        quantized: set[Node] = set()

        def mark(node: Node, inputs: dict[Node, QuantizationSpecBase], output: QuantizationSpecBase | None) -> None:
            relu = next(iter(node.users)) if len(node.users) == 1 else None
            if output is not None and self.absorbs_relu and relu is not None and relu.target in RELUS:
                _annotate(node, inputs)
                _annotate(relu, {}, output)
                quantized.add(relu)
            else:
                _annotate(node, inputs, output)
                if output is not None:
                    quantized.add(node)
            quantized.update(source for source in inputs if not is_constant(source))

        for node in model.graph.nodes:
            if node.target in TRANSPOSED:
                continue  # onnxruntime has no integer kernel for it
            if inputs := self._operands(node):
                # The logits stay float: QGemm writes float, and 8 bits would tie classes.
                last = node.target in LINEAR and all(user.op == "output" for user in node.users)
                mark(node, inputs, None if last else self.activation)
            elif _is_residual(node):
                mark(node, {source: self.activation for source in node.all_input_nodes}, self.activation)
            elif node.target in POOLS and _is_spatial(node):
                mark(node, {node.args[0]: self.activation}, self.activation)
            elif node.target in CONCATENATIONS and all(source in quantized for source in node.all_input_nodes):
                first, *others = node.all_input_nodes
                shared = SharedQuantizationSpec((first, node))
                mark(node, {first: self.activation, **dict.fromkeys(others, shared)}, shared)
            elif node.target in MOVES and node.args[0] in quantized:
                source = node.args[0]
                mark(node, {source: self.activation}, SharedQuantizationSpec((source, node)))


def sites(model: GraphModule | onnx.ModelProto | str | os.PathLike[str]) -> set[Site]:
    """The quantized tensors of a prepared or converted graph, or of an ONNX model that edgekd exported.

    Of a graph they are named by its nodes and parameters, of ONNX by the Q node's output and the stored weight, which
    the export names after them: equal sets mean that what was trained is what ships. An int32 bias is none: its scale
    follows from the other two.
    """
    if isinstance(model, GraphModule):
        return _graph_sites(model)
    if not isinstance(model, onnx.ModelProto):
        model = onnx.load(os.fspath(model))
    return _onnx_sites(model)


def _graph_sites(model: GraphModule) -> set[Site]:
    found = set()
    quantized = torch.ops.quantized_decomposed
    for node in model.graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, Node):
            continue
        name = constant_name(source) if is_constant(source) else source.name
        if node.op == "call_module":
            observer = model.get_submodule(node.target)
            if not isinstance(observer, (ObserverBase, FakeQuantizeBase)):
                continue
            found.add(Site(name, _dtype_name(observer.dtype), observer.qscheme == torch.per_channel_symmetric))
        elif node.target is quantized.quantize_per_tensor.default:
            found.add(Site(name, _dtype_name(node.args[5]), False))
        elif node.target is quantized.dequantize_per_channel.default and is_constant(source):
            found.add(Site(name.removesuffix(SUFFIX), _dtype_name(node.args[6]), True))
        elif node.target is quantized.dequantize_per_tensor.default and is_constant(source):
            found.add(Site(name.removesuffix(SUFFIX), _dtype_name(node.args[5]), False))
    return found


SUFFIX = "_quantized"


def _onnx_sites(model: onnx.ModelProto) -> set[Site]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero_point = constants[node.input[2]]
            found.add(Site(node.output[0].removesuffix(SUFFIX), _onnx_dtype(zero_point), bool(zero_point.dims)))
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            stored = constants[node.input[0]]
            if stored.data_type != onnx.TensorProto.INT32:
                scale = constants[node.input[1]]
                found.add(Site(stored.name.removesuffix(SUFFIX), _onnx_dtype(stored), bool(scale.dims)))
    return found


def _annotate(node: Node, inputs: dict[Node, QuantizationSpecBase], output: QuantizationSpecBase | None = None) -> None:
    known = node.meta.get("quantization_annotation")
    if known is not None:  # a ReLU that was marked with the operator before it
        inputs, output = {**known.input_qspec_map, **inputs}, output or known.output_qspec
    node.meta["quantization_annotation"] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=output, _annotated=True
    )


def _is_residual(node: Node) -> bool:
    """An addition of two tensors that both come from the input: by what it does, not by any name."""
    return node.target in ADDITIONS and all(
        isinstance(operand, Node) and isinstance(operand.meta.get("val"), torch.Tensor) and not is_constant(operand)
        for operand in node.args[:2]
    )


def _is_spatial(node: Node) -> bool:
    """Whether a mean is an average pool: over height and width."""
    if node.target is not aten.mean.dim:
        return True
    axes = {axis % 4 for axis in node.args[1]}  # type: ignore[union-attr, operator]
    return node.args[0].meta["val"].dim() == 4 and axes == {2, 3}  # type: ignore[union-attr]


def _depths(model: GraphModule) -> dict[Node, int]:
    """How many convolutions and matrix products a value has gone through at most."""
    depth: dict[Node, int] = {}
    for node in model.graph.nodes:
        weighted = node.target in CONVOLUTIONS or node.target in TRANSPOSED or node.target in (*LINEAR, *PRODUCTS)
        depth[node] = max((depth[source] for source in node.all_input_nodes), default=0) + weighted
    return depth


def _dtype_name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _onnx_dtype(tensor: onnx.TensorProto) -> str:
    return str(onnx.TensorProto.DataType.Name(tensor.data_type)).lower()
