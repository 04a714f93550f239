"""Sizes of a graph's values, some of them free: numbers for the example, and bounds from the inputs' bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from edgekd.models.trace import Free, FreeSize

BOUNDS = "free"  # in the meta of a graph's input: its free sizes by axis
Size = int | torch.SymInt


def keep_bounds(graph: Graph, free: Free) -> None:
    """Stores the free sizes of each input in the graph, so that later passes know their bounds."""
    for node, axes in zip(graph.find_nodes(op="placeholder"), free, strict=False):
        node.meta[BOUNDS] = dict(axes)


def numbers_of_one_sample(node: Node) -> int:
    """The count of numbers in a node's tensor for one sample, with free sizes as in the example."""
    inputs = node.graph.find_nodes(op="placeholder")
    free = {size.node.expr: size.node.hint for each in inputs for size in _symbolic(each.meta["val"].shape[1:])}
    return math.prod(size if isinstance(size, int) else _at(size, free) for size in node.meta["val"].shape)


def least(graph: Graph, size: Size) -> int:
    """The least value of a size. Sizes grow with the sizes of the inputs."""
    if isinstance(size, int):
        return size
    return _at(size, {symbol: free.at_least for symbol, free in _free(graph).items()})


def may_reach(graph: Graph, size: Size, number: int) -> bool:
    """Whether a size can be `number` or more. A free size can, unless a bound of the inputs prevents it."""
    if isinstance(size, int):
        return size >= number
    bounds = {symbol: free.at_most for symbol, free in _free(graph).items()}
    known = {symbol: most for symbol, most in bounds.items() if most is not None}
    unbounded = size.node.expr.free_symbols - known.keys()
    return bool(unbounded) or _at(size, known) >= number


def _free(graph: Graph) -> dict[Any, FreeSize]:
    """Torch's symbol -> its free size."""
    return {
        node.meta["val"].shape[axis].node.expr: size
        for node in graph.find_nodes(op="placeholder")
        for axis, size in node.meta.get(BOUNDS, {}).items()
    }


def _at(size: torch.SymInt, values: dict[Any, int]) -> int:
    """A size with these values for its symbols. Symbols without a value are batch sizes and count as 1."""
    expression = size.node.expr
    return int(expression.subs({symbol: values.get(symbol, 1) for symbol in expression.free_symbols}))


def _symbolic(shape: Sequence[Size]) -> list[torch.SymInt]:
    return [size for size in shape if not isinstance(size, int)]
