"""Scheme: marks the tensors of a graph that a target quantizes, for torchao. `sites` lists the marked tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch.fx import GraphModule, Node

from edgekd.errors import UnknownLayerError, nearest
from edgekd.quantize.capture import flatten_linears, is_spatial_mean, shuffle_transposed, spell_out_silu, split_means
from edgekd.quantize.constants import constant_name, depends_on_samples, is_constant
from edgekd.quantize.operators import CONVOLUTIONS, TRANSPOSED, aten
from edgekd.quantize.pt2e import (
    FakeQuantizeBase,
    ObserverBase,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from edgekd.quantize.same import MASKED
from edgekd.quantize.sizes import may_reach
from edgekd.target import Operator, Quantization

LINEAR = (aten.linear.default,)
PRODUCTS = (aten.matmul.default, aten.mm.default, aten.bmm.default)
# The names of operators in targets/*.toml (edgekd.target.Operators).
OPERATORS: dict[str, tuple[Any, ...]] = {
    "conv": tuple(CONVOLUTIONS),
    "conv_transpose": tuple(TRANSPOSED),
    "linear": LINEAR,
    "matmul": PRODUCTS,
    "add": (aten.add.Tensor,),
    "mul": (aten.mul.Tensor,),
    "avg_pool": (aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default, aten.mean.dim),
    "sigmoid": (aten.sigmoid.default,),
    "max_pool": (aten.max_pool2d.default,),
    "concat": (aten.cat.default, aten.concat.default),
    "move": (
        aten.flatten.using_ints,
        aten.reshape.default,
        aten.view.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
        aten.permute.default,
        aten.transpose.int,
        aten.dropout.default,
    ),
}
NAMES = {target: name for name, targets in OPERATORS.items() for target in targets}
WEIGHTED = ("conv", "conv_transpose", "linear", "matmul")
# Activations that a target may compute as part of the operator before them.
ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "relu": (aten.relu.default,),
    "relu6": (aten.relu6.default, aten.hardtanh.default),
}
INTEGERS = {"int8": (torch.int8, -128, 127), "uint8": (torch.uint8, 0, 255), "uint16": (torch.uint16, 0, 65535)}

WHY_FLOAT = "why_float"  # in a node's meta

MakeObserver = Callable[[torch.dtype, bool, bool], Any]
"""(dtype, symmetric, per channel) to torchao's observer or fake-quantizer constructor."""


@dataclass(frozen=True, order=True)
class Site:
    """A quantized tensor: the name of its node or parameter, its type, and whether each channel has its own scale."""

    tensor: str
    dtype: str
    per_channel: bool


class Scheme(Quantizer):  # type: ignore[misc]
    """A target's rules (edgekd.target.Quantization) as torchao annotations.

    First, the target's table decides for every operator which tensors around it are quantized. Then tensors that are
    connected by moving or selecting operators only get a common scale. Then the annotations are written. `keep_float`
    excludes operators: "first" and "last" of those with weights, or all operators inside a module, named by its path.
    """

    def __init__(self, quantization: Quantization, make_observer: MakeObserver, keep_float: Sequence[str] = ()) -> None:
        self.quantization = quantization
        self.make_observer = make_observer
        self.keep_float = keep_float
        self.fused = {target for name in quantization.fuses for target in ACTIVATIONS[name]}
        dtype, low, high = INTEGERS[quantization.activation]
        symmetric = quantization.activation_symmetric
        self.activation = QuantizationSpec(
            dtype=dtype,
            quant_min=low,
            quant_max=high,
            qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
            observer_or_fake_quant_ctr=make_observer(dtype, symmetric, False),
        )

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Rewrites the graph in operators for which the target has integer kernels."""
        operators = self.quantization.operators
        if operators.sigmoid is not None and operators.mul is not None:
            spell_out_silu(model)
        if operators.avg_pool is not None:
            split_means(model)
        if operators.linear is not None and operators.linear.rank == 2:
            flatten_linears(model)
        if operators.conv is not None and operators.conv_transpose is None:
            shuffle_transposed(model, self._kept(model))
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        marks = self._marks(model)
        spec_of = self._specs(model, marks)
        for node in model.graph.nodes:
            inputs = {x: spec_of.get(x, own) for x, own in marks.inputs.get(node, {}).items()}
            output = spec_of[node] if node in marks.outputs else None
            if inputs or output is not None:
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map=inputs, output_qspec=output, _annotated=True
                )
        return model

    def validate(self, model: GraphModule) -> None:
        """Refuses nothing: operators without a rule stay float."""

    def _marks(self, model: GraphModule) -> Marks:
        """The inputs and outputs of operators that are quantized."""
        marks, kept, depth = Marks(), self._kept(model), _depths(model)
        read_in_float = self._read_in_float(model, kept)
        integers: set[Node] = set()  # outputs of integer operators, directly or through operators that pass them on
        passing = []
        for node in model.graph.nodes:
            rule = None if node in kept else self._rule(node)
            node.meta[WHY_FLOAT] = self._why_float(node, rule, node in kept)
            if rule is None or node in marks.outputs:  # the latter is an activation fused into its operator
                continue
            if rule.sites == "inputs":
                marks.inputs[node] = self._operands(node, rule)
            elif rule.sites == "inputs_and_output" or (
                rule.sites == "among_integers" and not integers.isdisjoint(node.all_input_nodes)
            ):
                marks.inputs[node] = self._operands(node, rule)
                end = self._end(node, kept)
                if not (rule.gives_float and end in read_in_float):
                    marks.outputs.add(end)
                    integers.add(end)
            elif rule.sites == "skip":
                # The deeper branch is computed last, and the addition is fused into its last convolution.
                main, skip = node.args[:2]
                marks.inputs[node] = {main if depth[main] < depth[skip] else skip: self.activation}
            elif rule.sites == "passes_on":
                passing.append(node)
                if not integers.isdisjoint(node.all_input_nodes):
                    integers.add(node)
        quantized = marks.tensors()
        for node in passing:
            sources = [source for source in node.all_input_nodes if _is_float(source)]
            known = quantized.intersection(sources)
            # A concatenation that integers read is computed in them: its float branch is quantized before, not behind it.
            if known and (len(known) == len(sources) or node in quantized):
                marks.inputs[node] = dict.fromkeys(sources, self.activation)
                marks.outputs.add(node)
                quantized.add(node)
        return marks

    def _read_in_float(self, model: GraphModule, kept: set[Node]) -> set[Node]:
        """The values that no reader takes as integers, directly or behind moving operators.

        Examples are the model's output and a GELU's input.
        """
        found: set[Node] = set()
        for node in reversed(model.graph.nodes):
            rules = {user: None if user in kept or user.op == "output" else self._rule(user) for user in node.users}
            if all(rule is None or (rule.sites == "passes_on" and user in found) for user, rule in rules.items()):
                found.add(node)
        return found

    def _rule(self, node: Node) -> Operator | None:
        """The rule of the target's table for an operator, or None if the operator stays float."""
        name, operators = NAMES.get(node.target), self.quantization.operators
        if node.op != "call_function" or is_constant(node) or not _is_float(node):
            return None
        if (name in ("add", "mul") and not _joins_two(node)) or (
            node.target is aten.mean.dim and not is_spatial_mean(node)
        ):
            name = None
        if name in WEIGHTED and (is_constant(node.args[0]) or not self._is_wide(node)):  # type: ignore[arg-type]
            return None
        rule: Operator | None = getattr(operators, name) if name else None
        return rule or operators.other

    def _why_float(self, node: Node, rule: Operator | None, kept: bool) -> str:
        """The reason why an operator computes in float, used if no scale lies beside the operator."""
        if kept:
            return "keep_float names it"
        if _has_mask(node) or any(map(_has_mask, node.all_input_nodes)):
            return "a mask is among its values"
        if rule is not None:
            return "the operators around it compute in float"
        name = NAMES.get(node.target)
        if name in WEIGHTED and getattr(self.quantization.operators, name) is not None:
            if not is_constant(node.args[0]):  # type: ignore[arg-type]
                return f"fewer than {self.quantization.min_channels} channels"
            return "what it reads is constant"
        return "the target has no int8 rule for it"

    def _is_wide(self, node: Node) -> bool:
        """Whether an operator has enough channels for integer kernels.

        A convolution needs them on one side, a matrix product on both.
        """
        is_product = node.target not in CONVOLUTIONS and node.target not in TRANSPOSED
        axis, needed = (-1, all) if is_product else (1, any)
        sizes = [value.meta["val"].shape[axis] for value in (node.args[0], node)]  # type: ignore[union-attr]
        return needed(may_reach(node.graph, size, self.quantization.min_channels) for size in sizes)

    def _operands(self, node: Node, rule: Operator) -> dict[Node, QuantizationSpecBase]:
        """The inputs of an operator, each with its specification; a weight has its own.

        The result is empty if an input contains a mask.
        """
        if any(_has_mask(x) for x in node.all_input_nodes):
            return {}
        if NAMES.get(node.target) not in WEIGHTED:
            return {x: self.activation for x in node.all_input_nodes if _is_float(x) and not is_constant(x)}
        x, weight = node.args[:2]
        assert isinstance(x, Node) and isinstance(weight, Node)
        axis: int | None = 0
        if node.target in TRANSPOSED:
            groups = node.args[6] if len(node.args) > 6 else 1
            axis = TRANSPOSED[node.target] if groups == 1 else None
        elif node.target in PRODUCTS:
            # onnxruntime and TensorRT take a scale for each column of a matrix, but a single scale for a batch of matrices.
            axis = 1 if weight.meta["val"].dim() == 2 else None
        per_channel = (
            self.quantization.weight_per_channel if rule.weight_per_channel is None else rule.weight_per_channel
        )
        return {
            x: self.activation,
            weight: self.weight(axis if per_channel else None) if is_constant(weight) else self.activation,
        }

    def weight(self, axis: int | None) -> QuantizationSpec:
        """The specification of a weight; `axis` None means a single scale.

        The levels -127..127 are symmetric, so that a channel's range does not depend on its sign.
        """
        return QuantizationSpec(
            dtype=torch.int8,
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_tensor_symmetric if axis is None else torch.per_channel_symmetric,
            ch_axis=axis,
            observer_or_fake_quant_ctr=self.make_observer(torch.int8, True, axis is not None),
        )

    def _end(self, node: Node, kept: set[Node]) -> Node:
        """The last operator that the target computes together with `node`: an activation that it fuses, or `node` itself."""
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        return reader if reader is not None and reader.target in self.fused and reader not in kept else node

    def _specs(self, model: GraphModule, marks: Marks) -> dict[Node, QuantizationSpecBase]:
        """The specification of each quantized tensor: its own, or that of the first tensor with the same values."""
        quantized, order = marks.tensors(), {node: index for index, node in enumerate(model.graph.nodes)}
        # torchao walks the graph in order, so the tensor that it meets first must hold the shared specification.
        readers = {x: (x, node) for node in reversed(order) for x in marks.inputs.get(node, ())}
        met = {x: order[x] + 0.5 if x in marks.outputs else order[readers[x][1]] for x in quantized}
        first: dict[Node, Node] = {}
        for node in order:
            rule = self._rule(node)
            if rule is None or rule.sites not in ("passes_on", "commutes") or node not in quantized:
                continue
            alike = {first.get(x, x) for x in (*self._of_one_scale(node), node) if x in quantized}
            leader = min(alike, key=met.__getitem__)
            first |= {x: leader for x in quantized if first.get(x, x) in alike and x is not leader}
            first.pop(leader, None)
        return {
            x: SharedQuantizationSpec(first[x] if first[x] in marks.outputs else readers[first[x]])
            if x in first
            else self.activation
            for x in quantized
        }

    def _of_one_scale(self, node: Node) -> list[Node]:
        """The inputs of a moving or selecting operator that share its output's scale.

        A tensor behind a ReLU keeps its own beside one with a sign: with the zero-point of both, onnxruntime would not take
        the ReLU for a part of its convolution, and would compute both in float.
        """
        rectified = [x for x in node.all_input_nodes if self._is_rectified(x)]
        if self.quantization.activation_symmetric or len(rectified) == len(node.all_input_nodes):
            return node.all_input_nodes
        return [x for x in node.all_input_nodes if x not in rectified]

    def _is_rectified(self, node: Node) -> bool:
        """Whether a value comes from activations that start at 0, also behind moving and selecting operators."""
        if NAMES.get(node.target) in ("move", "max_pool", "concat"):
            return all(map(self._is_rectified, node.all_input_nodes))
        return node.target in self.fused

    def _kept(self, model: GraphModule) -> set[Node]:
        """The operators that `keep_float` names. Raises UnknownLayerError for a name that matches no operator."""
        nodes = [node for node in model.graph.nodes if node.op == "call_function" and not is_constant(node)]
        weighted = [node for node in nodes if NAMES.get(node.target) in WEIGHTED and is_constant(node.args[1])]
        kept: set[Node] = set()
        for name in self.keep_float:
            if name in ("first", "last"):
                found = [weighted[0 if name == "first" else -1]] if weighted else []
            else:
                found = [node for node in nodes if any(f"{path}.".startswith(f"{name}.") for path in _modules(node))]
            if not found:
                paths = sorted({path for node in nodes for path in _modules(node) if path})
                raise UnknownLayerError(f"keep_float = {name!r} names no operator of this model{nearest(name, paths)}")
            kept.update(found)
        return kept


@dataclass
class Marks:
    """The quantized tensors: each operator's quantized inputs with their specification, and operators with quantized
    outputs.
    """

    inputs: dict[Node, dict[Node, QuantizationSpecBase]] = field(default_factory=dict)
    outputs: set[Node] = field(default_factory=set)

    def tensors(self) -> set[Node]:
        """All quantized activations."""
        return self.outputs | {x for inputs in self.inputs.values() for x in inputs if not is_constant(x)}


def sites(model: GraphModule | onnx.ModelProto | str | os.PathLike[str]) -> set[Site]:
    """The quantized tensors of a prepared or converted graph, or of an ONNX model that edgekd exported.

    In a graph, the nodes and parameters name them. In ONNX, the output of the Q node and the stored weight do, which the
    export names alike. Equal sets therefore mean that the trained model is the shipped model. An int32 bias is not listed:
    its scale follows from the other two.
    """
    if isinstance(model, GraphModule):
        return _graph_sites(model)
    if not isinstance(model, onnx.ModelProto):
        model = onnx.load(os.fspath(model))
    return _onnx_sites(model)


def _graph_sites(model: GraphModule) -> set[Site]:
    graph_sites = set()
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
            graph_sites.add(Site(name, _dtype_name(observer.dtype), observer.qscheme == torch.per_channel_symmetric))
        elif node.target is quantized.quantize_per_tensor.default:
            graph_sites.add(Site(name, _dtype_name(node.args[5]), False))
        elif node.target is quantized.dequantize_per_channel.default and is_constant(source):
            graph_sites.add(Site(name.removesuffix(SUFFIX), _dtype_name(node.args[6]), True))
        elif node.target is quantized.dequantize_per_tensor.default and is_constant(source):
            graph_sites.add(Site(name.removesuffix(SUFFIX), _dtype_name(node.args[5]), False))
    return graph_sites


SUFFIX = "_quantized"
COPY = re.compile(r"\.copy\d+$")
"""The suffix of copies: a shared weight is stored for each reader (edgekd.export.passes.part_integer_weights)."""


def _onnx_sites(model: onnx.ModelProto) -> set[Site]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    onnx_sites = set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero_point = constants[node.input[2]]
            onnx_sites.add(Site(node.output[0].removesuffix(SUFFIX), _onnx_dtype(zero_point), bool(zero_point.dims)))
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            stored = constants[node.input[0]]
            if stored.data_type != onnx.TensorProto.INT32:
                scale = constants[node.input[1]]
                name = COPY.sub("", stored.name).removesuffix(SUFFIX)
                onnx_sites.add(Site(name, _onnx_dtype(stored), bool(scale.dims)))
    return onnx_sites


def _joins_two(node: Node) -> bool:
    """Whether both operands depend on the model's input, as in a residual addition. Names do not matter."""
    return all(isinstance(x, Node) and _is_float(x) and not is_constant(x) for x in node.args[:2])


def _is_float(node: Node) -> bool:
    """Whether a value can be quantized: floats that depend on the samples.

    The exporter would fold a constant value.
    """
    value = node.meta.get("val")
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return floats and depends_on_samples(node) and not _has_mask(node)


def _has_mask(node: Node) -> bool:
    """Whether a value contains a mask, also behind moving operators."""
    while MASKED not in node.meta and NAMES.get(node.target) == "move":
        node = node.all_input_nodes[0]
    return MASKED in node.meta


def _modules(node: Node) -> list[str]:
    """The paths of the modules around an operator, and the name of its weight, if any."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path).removeprefix("L['self'].") for path, _ in stack.values()]
    return [*paths, *(constant_name(x) for x in node.all_input_nodes if is_constant(x))]


def _depths(model: GraphModule) -> dict[Node, int]:
    """The largest number of convolutions and matrix products on any path to a node."""
    depth: dict[Node, int] = {}
    for node in model.graph.nodes:
        weighted = NAMES.get(node.target) in WEIGHTED
        depth[node] = max((depth[source] for source in node.all_input_nodes), default=0) + weighted
    return depth


def _dtype_name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _onnx_dtype(tensor: onnx.TensorProto) -> str:
    return str(onnx.TensorProto.DataType.Name(tensor.data_type)).lower()
