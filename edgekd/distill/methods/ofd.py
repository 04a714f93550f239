"""A comprehensive overhaul of feature distillation (Heo et al. 2019, 1904.01866)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekd.distill.methods.adapters import connector, doubled, in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.sizes import pairs_of_one_size


def margin_of(t: Tensor) -> Tensor:
    """The mean of each channel's negative responses, or 0 without any; `[batch, c, h, w]` to `[1, c, 1, 1]`."""
    count = (t < 0).sum((0, 2, 3), keepdim=True)
    return t.clamp(max=0).sum((0, 2, 3), keepdim=True) / count.clamp(min=1)


def partial_l2(s: Tensor, t: Tensor) -> Tensor:
    """The partial distance, 0 for s ≤ t ≤ 0 and else (t − s)²: sum over neurons, batch mean."""
    indifferent = (s <= t) & (t <= 0)
    return (t - s).square().masked_fill(indifferent, 0).sum() / len(s)


@method(auto="refused", prepares=True, rows=ROWS)  # the last layer of a stage comes after the ReLU
class OFD(nn.Module):
    """Sum over layers of the partial L2 distance of `r(f_s)` to `max(f_t, m)`, r a 1x1 convolution and BatchNorm.

    f_s, f_t: lists of `[batch, channels, h, w]` before their ReLU, shallow to deep; the larger map is average-pooled to
    the smaller. The deepest layer has weight 1, each earlier layer half the weight of the next. The loss is a sum over
    neurons, for which the authors' weight is 1e-3.

    The margin m is a channel's mean negative response on the first batch (`prepare`). The paper also computes the margin
    from the parameters of the BatchNorm before the ReLU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make the connectors for features of these shapes, and measure the margins on them."""
        self.layers = nn.ModuleList(Distance(s, t) for s, t in pairs_of_one_size(f_s, f_t))

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.layers:
            self.prepare(f_s, f_t)
        losses = [layer(s, t) for layer, (s, t) in zip(self.layers, pairs_of_one_size(f_s, f_t), strict=True)]
        return torch.stack([doubled(i, len(losses)) * loss for i, loss in enumerate(losses)]).sum()


class Distance(nn.Module):
    """The connector and the margin of a layer."""

    margin: Tensor

    def __init__(self, s: Tensor, t: Tensor) -> None:
        super().__init__()
        self.connector = connector(s, t)
        self.register_buffer("margin", margin_of(t))

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        return partial_l2(self.connector(s), torch.maximum(t, self.margin))
