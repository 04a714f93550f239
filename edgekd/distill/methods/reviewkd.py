"""Distilling knowledge via knowledge review (Chen et al. 2021, 2104.09044)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.precision import full, taught

LEVELS = (4, 2, 1)
WIDEST = 512


def hierarchical_context_loss(s: Tensor, t: Tensor) -> Tensor:
    """Weighted mean of the MSE of the full maps (1) and of maps pooled to 4x4, 2x2 and 1x1 (1/2, 1/4, 1/8).

    s, t: `[batch, channels, h, w]` of one shape. Levels that are no smaller than the map are left out.
    """
    difference = full(s) - taught(t)  # pooling is linear, so what is pooled is the difference
    levels = [level for level in LEVELS if level < min(s.shape[2:])]
    differences = [difference, *(adaptive_avg_pool2d(difference, level) for level in levels)]
    weights = [0.5**i for i in range(len(differences))]
    terms = [weight * d.square().mean() for weight, d in zip(weights, differences, strict=True)]
    return torch.stack(terms).sum() / sum(weights)


@method(prepares=True)
class ReviewKD(nn.Module):
    """Sum over layers of the hierarchical context loss between fused student features and the teacher's.

    f_s, f_t: lists of `[batch, channels, h, w]` from shallow to deep, of any widths and resolutions. From the deepest
    on, each student feature is fused with what came from the deeper ones, then brought to the teacher's shape. The
    fusions are trained along, in the student's precision, and are no part of it. The authors raise the weight linearly
    over 20 epochs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fusions = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make the fusions for features of these shapes; their inner width is the deepest student feature's."""
        width = min(WIDEST, f_s[-1].shape[1])
        self.fusions = nn.ModuleList(
            Fusion(s, t, width, deepest=i == len(f_s) - 1) for i, (s, t) in enumerate(zip(f_s, f_t, strict=True))
        )

    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.fusions:
            self.prepare(f_s, f_t)
        losses, deeper = [], None
        for fusion, s, t in reversed(list(zip(self.fusions, f_s, f_t, strict=True))):
            fused, deeper = fusion(full(s), deeper, t.shape[2:])
            losses.append(hierarchical_context_loss(fused, t))
        return torch.stack(losses).sum()


class Fusion(nn.Module):
    """Attention-based fusion: `x ← a_x·x + a_y·y` with attention maps made of both, y from the deeper layers."""

    def __init__(self, s: Tensor, t: Tensor, width: int, *, deepest: bool) -> None:
        super().__init__()
        self.narrow = _convolution(s.shape[1], width, 1)
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())
        self.widen = _convolution(width, t.shape[1], 3)
        self.to(s.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, s: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """The feature in the teacher's shape, and what the shallower layers are fused with; `size`: the teacher's."""
        x: Tensor = self.narrow(s)
        if self.attention is not None and deeper is not None:
            y = interpolate(deeper, s.shape[2:], mode="nearest")
            a_x, a_y = self.attention(torch.cat([x, y], 1)).split(1, 1)
            x = a_x * x + a_y * y
        if x.shape[2:] != size:
            x = interpolate(x, size, mode="nearest")
        return self.widen(x), x


def _convolution(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(c_out))
