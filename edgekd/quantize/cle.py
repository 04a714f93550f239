"""equalize: cross-layer equalization (Nagel et al. 2019, 1906.04721, section 4.1).

Let f be positively homogeneous. A channel may be scaled down before f and up again after f. The function stays the same:
f(W1 x / s) · s = f(W1 x). The best scales give both layers the same range in each channel, `r1 = r2`: `s = sqrt(r1 r2) /
r2` (equation 11). They waste the fewest of a tensor's 256 levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekd.quantize.layers import Layer, layers_of, unquantized
from edgekd.quantize.operators import LAYERS, aten

# Homogeneous for each number alone: f(s x) = s f(x) for s > 0.
POINTWISE = (aten.relu.default, aten.leaky_relu.default, aten.dropout.default)
# Homogeneous for each channel of `[batch, C, H, W]`. Three axes would be `[C, H, W]`, with the channels first.
POOLS = (aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default)
HOMOGENEOUS = (*POINTWISE, *POOLS, aten.mean.dim, aten.flatten.using_ints)
SWEEPS = 40
LEAST = 1e-8  # a channel that is all zeros in one of the two layers has no range


def equalize(prepared: GraphModule) -> list[tuple[str, str]]:
    """Equalizes each pair of layers with only homogeneous operators between them, and returns the pairs' layer names.

    The float function does not change. Activations do, so calibration comes afterwards.
    """
    pairs = list(pairs_of(prepared))
    with torch.no_grad():
        for _ in range(SWEEPS):
            if all(_equalize(first, second) < 1e-3 for first, second in pairs):
                break
    return [(first.name, second.name) for first, second in pairs]


def pairs_of(prepared: GraphModule) -> list[tuple[Layer, Layer]]:
    """Pairs (layer, its only reader among the layers), with only homogeneous operators between them."""
    layers = {layer.node: layer for layer in layers_of(prepared) if layer.node.target in LAYERS}
    found = []
    for second in layers.values():
        before, between = _only_source(prepared, second.input), []
        while before.target in HOMOGENEOUS:
            between.append(before)
            before = _only_source(prepared, unquantized(prepared, before.all_input_nodes[0]))
        first = layers.get(before)
        if first is not None and _fit(first, between[::-1], second):
            found.append((first, second))
    return found


def _only_source(prepared: GraphModule, node: Node) -> Node:
    """The node if it has one reader; otherwise the graph's output node, which ends the search."""
    readers = {reader for user in node.users for reader in (user.users if user.op == "call_module" else (user,))}
    return node if len(readers) == 1 else prepared.graph.output_node()


def _fit(first: Layer, between: Sequence[Node], second: Layer) -> bool:
    """Whether the second layer reads each channel of the first layer as one input or as one block of inputs.

    Blocks of equal size come from a flattened map.
    """
    value: Tensor = first.node.meta["val"]
    axis: int | None = first.channels % value.dim()
    for node in between:
        if axis is not None:
            axis = _axis_behind(node, value, axis)
        value = node.meta["val"]
    if axis is None or axis != second.channels % value.dim():
        return False
    inputs, channels = _inputs(second), len(first.weight)
    return inputs == channels or (second.groups == 1 and inputs % channels == 0)


def _axis_behind(node: Node, value: Tensor, axis: int) -> int | None:
    """The channel axis after an operator that reads `value`, or None if the operator mixes the channels.

    The channels may lie there in blocks.
    """
    if node.target in POOLS:
        return axis if value.dim() == 4 and axis == 1 else None
    if node.target is aten.mean.dim:
        axes, keeps = node.args[1], len(node.args) > 2 and node.args[2]
        gone = {int(each) % value.dim() for each in axes} if axes else set(range(value.dim()))  # type: ignore[arg-type, union-attr]
        return None if axis in gone else axis if keeps else axis - sum(each < axis for each in gone)
    if node.target is aten.flatten.using_ints:
        start, end = (int(each) % value.dim() for each in (*node.args[1:], *(0, -1)[len(node.args) - 1 :]))  # type: ignore[arg-type]
        return None if start < axis <= end else axis if axis <= start else axis - (end - start)
    return axis


def _inputs(layer: Layer) -> int:
    return layer.weight.shape[1] * layer.groups


def _by_input(layer: Layer, channels: int) -> Tensor:
    """A view of the weight: `[groups, outputs, channels in the group, inputs a channel]`."""
    weight, groups = layer.weight, layer.groups
    return weight.view(groups, len(weight) // groups, channels // groups, -1)


def _equalize(first: Layer, second: Layer) -> float:
    """Applies equation 11 to one pair, and returns the largest distance of its scales from 1."""
    channels = len(first.weight)
    incoming = _by_input(second, channels)
    r1 = first.weight.flatten(1).abs().amax(1)
    r2 = incoming.abs().amax((1, 3)).reshape(-1)
    s = torch.where((r1 > LEAST) & (r2 > LEAST), (r1 / r2.clamp_min(LEAST)).sqrt(), 1.0)
    first.weight.div_(s.reshape(-1, *[1] * (first.weight.dim() - 1)))
    if first.bias is not None:
        first.bias.div_(s)
    incoming.mul_(s.reshape(second.groups, 1, -1, 1))
    return float((s - 1).abs().max())
