"""capture: turns a model into a functional ATen graph whose BatchNorms are absorbed by the convolutions before them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_flatten

from edgekd.models.plain import plain_copy
from edgekd.models.trace import Free, trace
from edgekd.quantize.constants import constant_name, evaluate, fold_constant
from edgekd.quantize.fold import absorb_batch_norms
from edgekd.quantize.functional import make_functional
from edgekd.quantize.operators import aten
from edgekd.quantize.sizes import keep_bounds

NEUTRAL: dict[Any, tuple[Any, ...]] = {
    aten.add.Tensor: (0,), aten.sub.Tensor: (0,), aten.mul.Tensor: (1,), aten.div.Tensor: (1,),
}  # fmt: skip
"""Operands that change nothing, such as the 0 that Python's `sum` begins with."""


def capture(model: nn.Module, example_inputs: tuple[Tensor, ...], *, trainable: bool, free: Free = ()) -> GraphModule:
    """A copy of `model` in evaluation mode, as a graph of ATen operators.

    The batch size is dynamic, and so are the `free` sizes (edgekd.models.trace). A BatchNorm after a convolution or a
    linear layer becomes a scale of its weight and a shift of its bias. Both use the running statistics. The quantizer thus
    sees the weight that ships. With `trainable`, scale and shift stay expressions of BatchNorm's parameters, which continue
    to learn; the statistics are frozen. Otherwise scale and shift are folded. Raises ExportError if the model cannot be
    traced.
    """
    with _readable():
        program = trace(plain_copy(model), example_inputs, name=type(model).__name__, free=free)
        module = make_functional(program)
    keep_bounds(module.graph, free)
    _drop_no_ops(module.graph)
    _merge_equal(module.graph)
    absorb_batch_norms(module, trainable=trainable)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def _merge_equal(graph: Graph) -> None:
    """Merges nodes that compute the same from the same values.

    The exporter would merge them too, and with them their sites.
    """
    first: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or _is_random(node):
            continue
        flat, shape = tree_flatten((node.args, node.kwargs))
        key = (node.target, str(shape), tuple((type(value), value) for value in flat))
        if first.setdefault(key, node) is not node:
            stack = "nn_module_stack"  # `keep_float` may name either module's path
            first[key].meta[stack] = {**(first[key].meta.get(stack) or {}), **(node.meta.get(stack) or {})}
            node.replace_all_uses_with(first[key])
            graph.erase_node(node)


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


@contextmanager
def _readable() -> Iterator[None]:
    """Traces attention as its matrix products while the block runs.

    Otherwise torch uses one operator for a whole encoder layer, for which no scheme has a rule.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def spell_out_silu(module: GraphModule) -> None:
    """Rewrites `silu(x)` as `x * sigmoid(x)`, for targets that have integer kernels of these two operators only."""
    for node in list(module.graph.nodes):
        if node.target is aten.silu.default:
            with module.graph.inserting_before(node):
                gate = _call(node, aten.sigmoid.default, (node.args[0],))
            node.target, node.args = aten.mul.Tensor, (node.args[0], gate)


def flatten_linears(module: GraphModule) -> None:
    """Rewrites linear layers to act on matrices: a longer input is reshaped before the layer and back after it."""
    flat: dict[Node, Node] = {}  # one reshape for all readers of a value: the exporter would merge equal ones
    for node in list(module.graph.nodes):
        if node.target is not aten.linear.default or node.args[0].meta["val"].dim() == 2:
            continue
        *outer, features = node.meta["val"].shape
        x = node.args[0]
        with module.graph.inserting_before(node):
            if x not in flat:
                flat[x] = _call(node, aten.reshape.default, (x, [-1, x.meta["val"].shape[-1]]))
            linear = _call(node, aten.linear.default, (flat[x], *node.args[1:]))
            sizes = _sizes(node, outer)
        node.target, node.args = aten.reshape.default, (linear, [*sizes, features])


def _sizes(node: Node, outer: Sequence[int]) -> list[Any]:
    """A tensor's first sizes for a reshape. The first free size is -1; further free sizes are read at run time."""
    sizes: list[Any] = list(outer)
    free = [axis for axis, size in enumerate(outer) if not isinstance(size, int)] or [0]
    sizes[free[0]] = -1
    for axis in free[1:]:
        sizes[axis] = _call(node, aten.sym_size.int, (node.args[0], axis))
    return sizes


def split_means(module: GraphModule) -> None:
    """Splits each mean over height and width that drops these axes into a pool and a flatten.

    The pool, a mean that keeps the axes, has an integer kernel.
    """
    for node in list(module.graph.nodes):
        if not is_spatial_mean(node) or node.args[2:3] == (True,):
            continue
        with module.graph.inserting_before(node):
            pooled = _call(node, aten.mean.dim, (node.args[0], [2, 3], True))
        node.target, node.args, node.kwargs = aten.flatten.using_ints, (pooled, 1), {}


def shuffle_transposed(module: GraphModule, kept: Collection[Node] = ()) -> None:
    """Rewrites transposed convolutions whose stride is their kernel as a 1x1 convolution whose filters are then spread out.

    Those in `kept` stay. A stored weight is stored anew by its name in the shape of the convolution's.
    Each input pixel gives a block of pixels that no other input pixel reaches: the sub-pixel convolution of Shi et al. 2016
    (1609.05158, 3.2), here with the channels of a pixel side by side, as integer kernels hold them.
    """
    for node in list(module.graph.nodes):
        if node.target is not aten.conv_transpose2d.input or node in kept:
            continue
        x, weight, bias = (*node.args, None)[:3]
        for constant in filter(None, (weight, bias)):  # an absorbed BatchNorm leaves expressions without a shape
            constant.meta.setdefault("val", evaluate(module, constant).detach())
        if not _tiles(node):
            continue
        (_, _, h, w), (c_in, c, kh, kw) = x.meta["val"].shape, weight.meta["val"].shape
        with module.graph.inserting_before(node):
            filters = _call(node, aten.permute.default, (weight, [2, 3, 1, 0]))
            filters = _call(node, aten.reshape.default, (filters, [kh * kw * c, c_in, 1, 1]))
            shifts = None if bias is None else _call(node, aten.repeat.default, (bias, [kh * kw]))
            y = _call(node, aten.conv2d.default, (x, filters, shifts))
            y = _call(node, aten.permute.default, (y, [0, 2, 3, 1]))
            y = _call(node, aten.reshape.default, (y, [-1, h, w, kh, kw * c]))
            y = _call(node, aten.permute.default, (y, [0, 1, 3, 2, 4]))
            y = _call(node, aten.reshape.default, (y, [-1, h * kh, w * kw, c]))
        node.target, node.args = aten.permute.default, (y, [0, 3, 1, 2])
        for stored, changed in ((weight, filters), (bias, shifts)):
            if changed is not None and stored.op == "get_attr":
                fold_constant(module, changed, constant_name(stored))


def _tiles(node: Node) -> bool:
    """Whether the blocks that a transposed convolution makes of its input's pixels lie side by side, of a known number."""
    defaults: tuple[Any, ...] = (None, [1, 1], [0, 0], [0, 0], 1, [1, 1])
    given: tuple[Any, ...] = tuple(node.args)
    x, weight, _, stride, padding, output_padding, groups, dilation = *given, *defaults[len(given) - 2 :]
    fixed = all(isinstance(size, int) for size in x.meta["val"].shape[2:])
    side_by_side = [*stride] == [*weight.meta["val"].shape[2:]] and not any((*padding, *output_padding))
    return fixed and side_by_side and groups == 1 and {*dilation} == {1}


def is_spatial_mean(node: Node) -> bool:
    """Whether a mean is an average pool: over height and width of `[batch, C, H, W]`."""
    if node.target is not aten.mean.dim:
        return False
    x, axes = node.args[:2]
    assert isinstance(x, Node) and isinstance(axes, Sequence)
    return x.meta["val"].dim() == 4 and {axis % 4 for axis in axes} == {2, 3}  # type: ignore[operator]


def _call(like: Node, operator: Any, arguments: tuple[Any, ...]) -> Node:
    """A new node before `like`, of the same module, with the shape of its result in the metadata."""
    node = like.graph.call_function(operator, arguments)
    values = [a.meta["val"] if isinstance(a, Node) else a for a in arguments]
    node.meta = {**like.meta, "val": operator(*values)}
    return node


def _alike(*nodes: Any) -> bool:
    """Whether two values have the same shape and type."""
    first, *others = (node.meta["val"] for node in nodes[:2])
    return all(value.shape == first.shape and value.dtype == first.dtype for value in others)


def _takes_all(node: Node) -> bool:
    """Whether a slice covers its axis from the first element to the last, in a read or in a write."""
    given = node.args[1 if node.target is aten.slice.Tensor else 2 :]
    defaults: tuple[Any, ...] = (0, None, None, 1)
    axis, start, end, step = tuple(given) + defaults[len(given) :]
    size = node.args[0].meta["val"].shape[axis]  # type: ignore[union-attr]
    to_the_end = end is None or end == sys.maxsize or (isinstance(size, int) and isinstance(end, int) and end >= size)
    return bool(start in (None, 0) and step == 1 and to_the_end)


def _drop_no_ops(graph: Graph) -> None:
    """Removes operators that the exported graph does not have either.

    A site on a copy would be a second site on the same values.
    """
    for node in list(graph.nodes):
        copies = node.target in (aten.contiguous.default, aten.clone.default)
        if copies or (node.target is aten.dropout.default and node.args[1] == 0):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is aten.copy.default and _alike(*node.args):  # a former write in place
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)
        elif node.args[1:] == NEUTRAL.get(node.target) and not node.kwargs and _alike(node.args[0], node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target in (aten.slice.Tensor, aten.slice_scatter.default) and _takes_all(node):
            whole = node.args[0] if node.target is aten.slice.Tensor else node.args[1]
            node.replace_all_uses_with(whole)
            graph.erase_node(node)
        elif node.target is aten.view.default:  # the copy that made the memory contiguous may be gone
            node.target = aten.reshape.default
