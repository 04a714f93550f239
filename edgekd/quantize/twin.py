"""part_uses: turns shared or computed weights and biases into separate parameters of each layer."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgekd.quantize.constants import constant_name, evaluate, is_constant, store
from edgekd.quantize.operators import WITH_WEIGHTS


def part_uses(module: GraphModule, normalised: Collection[Node]) -> None:
    """Gives a layer its own parameters where it needs them. The function does not change.

    A shared weight is copied for each layer that absorbs a batch norm (`normalised`), because the folded weights differ.
    Other shared weights stay shared. A shared bias is always copied, because it ships in steps of its layer's scales. A
    computed weight, such as the transpose of another weight, is stored as a parameter. The copy for the second reader of
    `conv.weight` is called `conv.use2.weight`.
    """
    uses: dict[str, int] = {}
    for node in list(module.graph.nodes):
        if node.target not in WITH_WEIGHTS or not is_constant(node.args[1]):
            continue
        weight, bias = node.args[1], (node.args[2] if len(node.args) > 2 else None)
        source = constant_name(weight)
        number = uses[source] = uses.get(source, 0) + 1
        *path, leaf = source.split(".")
        prefix = ".".join([*path, f"use{number}", ""])
        if weight.op != "get_attr" or (node in normalised and len(weight.users) > 1):
            _own(module, node, 1, prefix + leaf)
        if isinstance(bias, Node) and is_constant(bias) and (bias.op != "get_attr" or len(bias.users) > 1):
            _own(module, node, 2, prefix + leaf.removesuffix("weight") + "bias")
    module.graph.eliminate_dead_code()


def _own(module: GraphModule, node: Node, index: int, name: str) -> None:
    given = node.args[index]
    assert isinstance(given, Node)
    with torch.no_grad():
        value = nn.Parameter(evaluate(module, given).detach().clone().contiguous())
    store(module, value, name)
    with module.graph.inserting_before(node):
        attribute = module.graph.get_attr(name)
    attribute.meta["val"] = given.meta["val"]
    node.update_arg(index, attribute)
