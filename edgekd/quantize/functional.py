"""make_functional: a traced model without writes in place, by torch's own functionalisation."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgekd.models.trace import quiet_torch

aten = torch.ops.aten
ALLOCATES = (
    aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default,
    aten.conv3d.padding, aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input,
    aten.linear.default, aten.batch_norm.default, aten.matmul.default, aten.layer_norm.default, aten.group_norm.default,
)  # fmt: skip
"""Composite operators whose result shares no memory with what they read."""


def make_functional(program: ExportedProgram) -> GraphModule:
    """The model of a program, without operators that write to memory which another operator reads.

    A write that only the writer can see, such as `ReLU(inplace=True)` behind a convolution, is replaced with its functional
    twin. Torch functionalises all other writes (views, slices, aliases, buffers).
    """
    _rename_own_writes(program.graph)
    if any(_writes(node) for node in program.graph.nodes):
        _keep_dropouts(program.graph)
        with quiet_torch():
            program = program.run_decompositions({})
    with quiet_torch():
        module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    for node in list(module.graph.nodes):
        # A write to an input or a buffer is for the caller to see; the answer does not depend on it.
        if node.target is aten.copy_.default and node.args[0].op in ("placeholder", "get_attr"):
            node.replace_all_uses_with(node.args[1])
            module.graph.erase_node(node)
    _name_as_before(module.graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _writes(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _rename_own_writes(graph: Graph) -> None:
    """Rewrites `relu_(x)` as `relu(x)` if x is fresh memory with no other reader; so for all operators."""
    for node in graph.nodes:
        if not _writes(node) or not node.args or not isinstance(node.args[0], Node):
            continue
        written = node.args[0]
        if len(written.users) > 1 or not _is_fresh(written):
            continue
        assert isinstance(node.target, torch._ops.OpOverload)
        packet = getattr(aten, node.target._schema.name.removeprefix("aten::").removesuffix("_"), None)
        if packet is not None and node.target._overloadname in packet.overloads():
            node.target = getattr(packet, node.target._overloadname)


def _is_fresh(node: Node) -> bool:
    """Whether a node's value lies in newly allocated memory."""
    if node.target in ALLOCATES:
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return False
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(node.target._name, "CompositeImplicitAutograd")
    return not composite and all(given.alias_info is None for given in node.target._schema.returns)


def _keep_dropouts(graph: Graph) -> None:
    """Renames dropouts to `native_dropout`, which functionalisation keeps.

    Functionalisation removes a dropout in evaluation mode, but quantization-aware training needs it.
    """
    for node in list(graph.nodes):
        if node.target is not aten.dropout.default or node.args[2] is not False:
            continue
        with graph.inserting_before(node):
            pair = graph.call_function(aten.native_dropout.default, (node.args[0], node.args[1], False))
            value = node.meta["val"]
            pair.meta = {**node.meta, "val": (value, torch.empty_like(value, dtype=torch.bool))}
            first = graph.call_function(operator.getitem, (pair, 0))
            first.meta = dict(node.meta)
        node.replace_all_uses_with(first)
        graph.erase_node(node)


def _name_as_before(graph: Graph) -> None:
    """Renames the batch norms and dropouts of functionalisation back to the operators of the trace."""
    for node in list(graph.nodes):
        if node.target is not operator.getitem or node.args[1] != 0:
            continue
        pair = node.args[0]
        arguments: tuple[Any, ...]
        if pair.target is aten._native_batch_norm_legit_no_training.default:
            x, weight, bias, mean, variance, momentum, eps = pair.args
            target, arguments = aten.batch_norm.default, (x, weight, bias, mean, variance, False, momentum, eps, False)
        elif pair.target is aten.native_dropout.default:
            target, arguments = aten.dropout.default, pair.args
        else:
            continue
        node.target, node.args = target, arguments
        node.meta = {**pair.meta, "val": node.meta["val"]}
