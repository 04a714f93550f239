"""equalize: cross-layer equalization (Nagel et al. 2019, 1906.04721, section 4.1).

Behind a positively homogeneous f a channel may be scaled down in one layer and up in the next without any change of the
function: f(W1 x / s) · s = f(W1 x). The scales that give both layers the same range in each channel, `r1 = r2`, waste the
fewest of a tensor's 256 levels: `s = sqrt(r1 r2) / r2` (equation 11).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekd.quantize.layers import Layer, layers_of, unquantized
from edgekd.quantize.operators import aten

# f(s x) = s f(x) for s > 0, channel by channel
HOMOGENEOUS = (
    aten.relu.default,
    aten.leaky_relu.default,
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.mean.dim,
    aten.flatten.using_ints,
    aten.dropout.default,
)
SWEEPS = 40
LEAST = 1e-8  # a channel that is all zeros in one of the two layers has no range to give


def equalize(prepared: GraphModule) -> list[tuple[str, str]]:
    """Equalizes each pair of layers that only homogeneous operators lie between; the pairs, by the layers' names.

    The float function stays what it was. It changes activations, so it comes before calibration.
    """
    pairs = list(pairs_of(prepared))
    with torch.no_grad():
        for _ in range(SWEEPS):
            if all(_equalize(first, second) < 1e-3 for first, second in pairs):
                break
    return [(first.name, second.name) for first, second in pairs]


def pairs_of(prepared: GraphModule) -> list[tuple[Layer, Layer]]:
    """(layer, the only layer that reads it through homogeneous operators)."""
    layers = {layer.node: layer for layer in layers_of(prepared)}
    found = []
    for second in layers.values():
        before = _only_source(prepared, second.input)
        while before.target in HOMOGENEOUS:
            before = _only_source(prepared, unquantized(prepared, before.all_input_nodes[0]))
        first = layers.get(before)
        if first is not None and _fit(first, second):
            found.append((first, second))
    return found


def _only_source(prepared: GraphModule, node: Node) -> Node:
    """The node, where nothing else reads it; else a stop."""
    readers = {reader for user in node.users for reader in (user.users if user.op == "call_module" else (user,))}
    return node if len(readers) == 1 else prepared.graph.output_node()


def _fit(first: Layer, second: Layer) -> bool:
    """The second layer reads the first one's channels, each alone, or as a block of equally many inputs: a flattened map's."""
    inputs, channels = _inputs(second), len(first.weight)
    is_map = first.node.target is not aten.linear.default
    return inputs == channels or (is_map and second.groups == 1 and inputs % channels == 0)


def _inputs(layer: Layer) -> int:
    return layer.weight.shape[1] * layer.groups


def _by_input(layer: Layer, channels: int) -> Tensor:
    """A view of the weight `[groups, outputs, channels in the group, the rest]`."""
    weight, groups = layer.weight, layer.groups
    return weight.view(groups, len(weight) // groups, channels // groups, -1)


def _equalize(first: Layer, second: Layer) -> float:
    """Equation 11 for one pair; how far its scales were from 1."""
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
