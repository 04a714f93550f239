"""Distillation of activation boundaries (Heo et al. 2019, 1811.03233)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekd.distill.methods.adapters import connector, doubled, in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.options import Weight
from edgekd.distill.methods.sizes import pairs_of_one_size


def boundary_loss(s: Tensor, t: Tensor, margin: float) -> Tensor:
    """The squared hinge that pushes s to t's side of zero by the margin; sum over neurons, batch mean."""
    beyond = torch.where(t > 0, margin - s, margin + s).relu()
    return beyond.square().sum() / len(s)


@method(prepares=True, rows=ROWS)
class AB(nn.Module):
    """Sum over layers of `‖1[f_t > 0]·relu(m − r(f_s)) + 1[f_t ≤ 0]·relu(m + r(f_s))‖²`.

    r is a 1x1 convolution and BatchNorm, trained with the student but not part of it; m is the margin.

    f_s, f_t: lists of `[batch, channels, h, w]` before their activation, shallow to deep. Only the sign of f_t counts, so
    the teacher's features may also be taken after a ReLU. The larger map is average-pooled to the smaller. The deepest
    layer has weight 1, each earlier layer half the weight of the next. The loss is a sum over neurons, so its weight is
    small: 3e-3 in the usual comparison code.

    The paper first trains the student by this loss alone, then on labels; here both losses are trained together.
    """

    def __init__(self, *, margin: Weight = 1.0) -> None:
        super().__init__()
        self.margin = margin
        self.connectors = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make the connectors for features of these shapes."""
        self.connectors = nn.ModuleList(connector(s, t) for s, t in zip(f_s, f_t, strict=True))

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.connectors:
            self.prepare(f_s, f_t)
        pairs = zip(self.connectors, pairs_of_one_size(f_s, f_t), strict=True)
        losses = [boundary_loss(connect(s), t, self.margin) for connect, (s, t) in pairs]
        return torch.stack([doubled(i, len(losses)) * loss for i, loss in enumerate(losses)]).sum()
