"""Constant expressions, which depend on parameters and buffers alone: recognised, computed and stored as parameters."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekd.quantize.operators import FILLS


def is_constant(node: Node) -> bool:
    """Whether a node's value depends on parameters and buffers only."""
    pending, seen = [node], set()
    while pending:  # no recursion: a chain may be as long as the model
        node = pending.pop()
        if node.op == "get_attr" or node in seen:
            continue
        if node.op not in ("call_function", "call_module") or not node.all_input_nodes:
            return False
        seen.add(node)
        pending.extend(node.all_input_nodes)
    return True


def depends_on_samples(node: Node) -> bool:
    """Whether a node's numbers, not only its shape, are computed from the model's input."""
    pending, seen = [node], {node}
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            return True
        if node.target is torch.ops.aten.sym_size.int:
            continue
        for source in node.all_input_nodes:
            if source not in seen and not (node.target in FILLS and source is node.args[0]):
                seen.add(source)
                pending.append(source)
    return False


def constant_name(node: Node) -> str:
    """The parameter that a constant expression starts from, e.g. `layer1.0.conv1.weight`."""
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return str(node.target)


def evaluate(module: GraphModule, node: Node) -> Tensor:
    """The value of a constant expression."""

    def value(of: Node) -> Any:
        if of.op == "get_attr":
            return operator.attrgetter(str(of.target))(module)
        assert callable(of.target)
        return of.target(*map_arg(of.args, value), **map_arg(of.kwargs, value))

    result: Tensor = value(node)
    return result


def fold_constant(module: GraphModule, node: Node, name: str) -> Node:
    """Computes a constant expression now and stores the value as the parameter `name`.

    The parameter replaces the old holder of the name. If other nodes still read the old holder, the new parameter gets a
    number in its name.
    """
    with torch.no_grad():
        folded = nn.Parameter(evaluate(module, node).detach().clone())
    name = _free(module, node, name)
    store(module, folded, name)
    with module.graph.inserting_before(node):
        attribute = module.graph.get_attr(name)
    attribute.meta["val"] = folded.detach()
    node.replace_all_uses_with(attribute)
    module.graph.eliminate_dead_code()
    return attribute


def store(module: nn.Module, value: nn.Parameter, name: str) -> None:
    """Registers a parameter by its path, in place of the old holder of the name. Missing modules on the path are created."""
    *path, leaf = name.split(".")
    owner = module
    for step in path:
        if not hasattr(owner, step):
            owner.add_module(step, nn.Module())
        owner = getattr(owner, step)
    if hasattr(owner, leaf):
        delattr(owner, leaf)
    owner.register_parameter(leaf, value)


def _free(module: GraphModule, node: Node, name: str) -> str:
    """`name`, or a numbered name if a reader outside the expression `node` would otherwise see a changed value."""
    inside, pending = {node}, [node]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in inside:
                inside.add(source)
                pending.append(source)
    read = {
        str(attribute.target)
        for attribute in module.graph.find_nodes(op="get_attr")
        if any(user not in inside for user in attribute.users)
    }
    *path, leaf = name.split(".")
    number = 1
    while name in read:
        number += 1
        name = ".".join([*path, f"use{number}", leaf])
    return name
