"""layers_of: the convolutions and linear layers of a prepared graph whose weights are quantized."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekd.quantize.bias import quantize_biases
from edgekd.quantize.constants import constant_name
from edgekd.quantize.operators import TRANSPOSED, WITH_WEIGHTS, aten
from edgekd.quantize.qat import FakeQuantizer, quantizer_of
from edgekd.quantize.sizes import numbers_of_one_sample

GROUPS_AT = 6  # the argument of a convolution, be it transposed


@dataclass(frozen=True)
class Layer:
    """A layer `y = W x + b`: its operator's node and the parameter that its weight is.

    The weight has its output channels first, but for a transposed convolution: there they are second, those of one group.
    """

    graph: GraphModule
    node: Node
    weight_name: str

    @property
    def name(self) -> str:
        """The module's path in the model, e.g. `layer1.0.conv1`."""
        return self.weight_name.removesuffix(".weight")

    @property
    def weight(self) -> Tensor:
        return _get(self.graph, self.weight_name)

    @property
    def bias(self) -> Tensor | None:
        given = self.node.args[2] if len(self.node.args) > 2 else None
        return _get(self.graph, constant_name(given)) if isinstance(given, Node) else None

    @property
    def input(self) -> Node:
        """What the layer reads, before its quantization."""
        return unquantized(self.graph, self.node.args[0])  # type: ignore[arg-type]

    @property
    def quantizer(self) -> FakeQuantizer:
        """Of the weight."""
        found = quantizer_of(self.graph, self.node.args[1])  # type: ignore[arg-type]
        assert found is not None
        return found

    @property
    def quantizers(self) -> list[FakeQuantizer]:
        """Of everything that the layer reads."""
        found = (quantizer_of(self.graph, source) for source in self.node.all_input_nodes)
        return [quantizer for quantizer in found if quantizer is not None]

    @property
    def is_transposed(self) -> bool:
        return self.node.target in TRANSPOSED

    @property
    def channels(self) -> int:
        """The axis of what the layer gives that holds its channels."""
        return -1 if self.node.target is aten.linear.default else 1

    @property
    def outputs(self) -> int:
        """How many channels it gives."""
        return self.weight.shape[1] * self.groups if self.is_transposed else len(self.weight)

    @property
    def groups(self) -> int:
        given: Any = self.node.args[GROUPS_AT] if len(self.node.args) > GROUPS_AT else 1
        return int(given)

    @property
    def multiplications(self) -> int:
        """Of one sample, at the sizes of the example: each output value is a sum over one row of the weight.

        Of a transposed convolution each input value is multiplied with one row.
        """
        counted = self.input if self.is_transposed else self.node
        return numbers_of_one_sample(counted) * self.weight[0].numel()


def layers_of(prepared: GraphModule) -> list[Layer]:
    """In the graph's order. A layer whose weight still is an expression (`qat`), or shared with another, is left out."""
    found = [
        Layer(prepared, node, str(source.target))
        for node in prepared.graph.nodes
        if node.target in WITH_WEIGHTS
        and quantizer_of(prepared, node.args[1]) is not None
        and (source := unquantized(prepared, node.args[1])).op == "get_attr"
    ]
    names = [layer.weight_name for layer in found]
    return [layer for layer in found if names.count(layer.weight_name) == 1]


def unquantized(graph: GraphModule, node: Node) -> Node:
    """The tensor itself, where `node` is its fake-quantizer."""
    return node.all_input_nodes[0] if quantizer_of(graph, node) is not None else node


def give_biases(prepared: GraphModule) -> None:
    """A bias of zeros for each layer that has none, so that it can be corrected."""
    for layer in layers_of(prepared):
        if layer.bias is not None:
            continue
        name = layer.weight_name.removesuffix("weight") + "bias"
        *path, leaf = name.split(".")
        owner = prepared.get_submodule(".".join(path))
        owner.register_parameter(leaf, nn.Parameter(torch.zeros(layer.outputs)))
        with prepared.graph.inserting_before(layer.node):
            bias = prepared.graph.get_attr(name)
        bias.meta["val"] = _get(prepared, name).detach()
        layer.node.args = (*layer.node.args[:2], bias, *layer.node.args[3:])
    if prepared.meta["quantization"].int32_bias:
        quantize_biases(prepared)
    prepared.recompile()


def _get(graph: GraphModule, name: str) -> Tensor:
    found: Tensor = operator.attrgetter(name)(graph)
    return found
