"""absorb_batch_norms: folds batch norms into the layers before them if the function stays the same; hides the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from edgekd.quantize.constants import fold_constant, is_constant
from edgekd.quantize.operators import TRANSPOSED, WITH_WEIGHTS, aten
from edgekd.quantize.twin import part_uses

GROUPS_AT = 6  # the argument of a transposed convolution


def absorb_batch_norms(module: GraphModule, *, trainable: bool) -> None:
    """Turns a batch norm behind a layer into a scale of the layer's weight and a shift of its bias.

    The running statistics are used. With `trainable`, scale and shift stay expressions of the batch norm's parameters,
    which continue to learn. Otherwise they are folded.
    """
    pairs = [(layer, bn) for bn in module.graph.nodes if (layer := _layer_of(bn)) is not None]
    part_uses(module, {layer for layer, _ in pairs})
    for layer, bn in pairs:
        _absorb(module, layer, bn, trainable)


def _layer_of(bn: Node) -> Node | None:
    """The layer that a batch norm can be folded into, or None if folding would change the function."""
    if bn.target is not aten.batch_norm.default:
        return None
    layer, gamma, beta, mean, variance, from_batch = bn.args[:6]
    if not isinstance(layer, Node) or layer.target not in WITH_WEIGHTS or len(layer.users) > 1:
        return None
    if from_batch or mean is None or variance is None:  # normalised by its batch, so its scale is not constant
        return None
    parameters = [layer.args[1], *layer.args[2:3], gamma, beta, mean, variance]
    if not all(is_constant(given) for given in parameters if isinstance(given, Node)):
        return None
    rank = layer.meta["val"].dim()
    # A batch norm's channels are axis 1. A linear layer's are the last axis; a convolution's without a batch the first.
    fits = rank == 2 if layer.target is aten.linear.default else rank == layer.args[1].meta["val"].dim()  # type: ignore[union-attr]
    return layer if fits else None


def _absorb(module: GraphModule, layer: Node, bn: Node, trainable: bool) -> None:
    _, gamma, beta, mean, variance, _, _, eps, *_ = bn.args
    weight, bias = layer.args[1], (layer.args[2] if len(layer.args) > 2 else None)
    assert isinstance(weight, Node)
    with module.graph.inserting_before(layer):
        call = module.graph.call_function
        scale = call(aten.rsqrt.default, (call(aten.add.Tensor, (variance, eps)),))
        if gamma is not None:
            scale = call(aten.mul.Tensor, (scale, gamma))
        shift = call(aten.neg.default, (mean,)) if bias is None else call(aten.sub.Tensor, (bias, mean))
        shift = call(aten.mul.Tensor, (shift, scale))
        if beta is not None:
            shift = call(aten.add.Tensor, (shift, beta))
        scaled = _scaled(call, layer, weight, scale)
    layer.args = (layer.args[0], scaled, shift, *layer.args[3:])
    layer.meta["computes"] = bn.meta.get("nn_module_stack")
    bn.replace_all_uses_with(layer)
    module.graph.erase_node(bn)
    if not trainable:
        name = str(weight.target)
        fold_constant(module, scaled, name)
        fold_constant(module, shift, name.removesuffix("weight") + "bias")


def _scaled(call: Any, layer: Node, weight: Node, scale: Node) -> Node:
    """The weight times the scale of each output channel."""
    shape: list[int] = [int(size) for size in weight.meta["val"].shape]
    groups = layer.args[GROUPS_AT] if layer.target in TRANSPOSED and len(layer.args) > GROUPS_AT else 1
    if groups == 1:
        others = [1] * len(shape)
        others[WITH_WEIGHTS[layer.target]] = -1
        result: Node = call(aten.mul.Tensor, (weight, call(aten.reshape.default, (scale, others))))
        return result
    # [inputs, outputs of a group, ...]: each group of inputs has outputs of its own.
    inputs, outputs, *kernel = shape
    parted = call(aten.reshape.default, (weight, [groups, inputs // groups, outputs, -1]))  # type: ignore[operator]
    product = call(aten.mul.Tensor, (parted, call(aten.reshape.default, (scale, [groups, 1, outputs, 1]))))
    result = call(aten.reshape.default, (product, [inputs, outputs, *kernel]))
    return result


@contextmanager
def hidden_batch_norms(graph: Graph) -> Iterator[None]:
    """Hides the batch norms that no layer absorbed from torchao while the block runs.

    torchao would fold them by its own patterns, without the conditions checked here. It would also trace each pattern for
    minutes.
    """
    for node in graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        node.target = _batch_norm
    try:
        yield
    finally:
        show_batch_norms(graph)


def show_batch_norms(graph: Graph) -> None:
    """Undoes `hidden_batch_norms` in a graph that was derived while the batch norms were hidden."""
    for node in graph.find_nodes(op="call_function", target=_batch_norm):
        node.target = aten.batch_norm.default


def _batch_norm(*arguments: Any) -> Tensor:
    result: Tensor = aten.batch_norm.default(*arguments)
    return result
