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

GROUPS_AT = 6  # the argument of a convolution and of a transposed convolution


@dataclass(frozen=True)
class Layer:
    """A layer `y = W x + b`: its operator's node and the name of its weight parameter.

    Output channels are the weight's first axis. A transposed convolution has them on the second axis, for one group.
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
        """The node of the layer's input, before quantization."""
        return unquantized(self.graph, self.node.args[0])  # type: ignore[arg-type]

    @property
    def quantizer(self) -> FakeQuantizer:
        """The weight's fake-quantizer."""
        found = quantizer_of(self.graph, self.node.args[1])  # type: ignore[arg-type]
        assert found is not None
        return found

    @property
    def quantizers(self) -> list[FakeQuantizer]:
        """The fake-quantizers of all tensors that the layer reads."""
        found = (quantizer_of(self.graph, source) for source in self.node.all_input_nodes)
        return [quantizer for quantizer in found if quantizer is not None]

    @property
    def is_transposed(self) -> bool:
        return self.node.target in TRANSPOSED

    @property
    def channels(self) -> int:
        """The channel axis of the layer's output."""
        return -1 if self.node.target is aten.linear.default else 1

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.weight.shape[1] * self.groups if self.is_transposed else len(self.weight)

    @property
    def groups(self) -> int:
        given: Any = self.node.args[GROUPS_AT] if len(self.node.args) > GROUPS_AT else 1
        return int(given)

    @property
    def multiplications(self) -> int:
        """The multiplications for one sample at the example's sizes: each output value is a sum over a row of the weight.

        In a transposed convolution each input value is multiplied with a row.
        """
        counted = self.input if self.is_transposed else self.node
        return numbers_of_one_sample(counted) * self.weight[0].numel()


def layers_of(prepared: GraphModule) -> list[Layer]:
    """The layers in the graph's order.

    A layer is left out if its weight is shared with another layer, or still an expression (`qat`).
    """
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
    """The tensor behind `node` if that is a fake-quantizer, otherwise `node` itself."""
    return node.all_input_nodes[0] if quantizer_of(graph, node) is not None else node


def give_biases(prepared: GraphModule) -> None:
    """Adds a bias of zeros to each layer without a bias, so that bias correction can change it."""
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
