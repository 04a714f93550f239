"""Distilling knowledge via knowledge review (Chen et al. 2021, 2104.09044)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.precision import full, taught

LEVELS = (4, 2, 1)
WIDEST = 512


def hierarchical_context_loss(s: Tensor, t: Tensor) -> Tensor:
    """The weighted mean of the MSE of full maps and of pooled maps.

    The weights are 1 for full maps and 1/2, 1/4, 1/8 for maps pooled to 4x4, 2x2 and 1x1. s, t: `[batch, channels, h, w]`
    of the same shape. Levels that are not smaller than the map are left out.
    """
    difference = full(s) - taught(t)  # pooling is linear, so the difference can be pooled
    levels = [level for level in LEVELS if level < min(s.shape[2:])]
    differences = [difference, *(adaptive_avg_pool2d(difference, level) for level in levels)]
    weights = [0.5**i for i in range(len(differences))]
    terms = [weight * d.square().mean() for weight, d in zip(weights, differences, strict=True)]
    return torch.stack(terms).sum() / sum(weights)


@method(prepares=True, rows=ROWS)
class ReviewKD(nn.Module):
    """Sum over layers of the hierarchical context loss between fused student features and the teacher's.

    f_s, f_t: lists of `[batch, channels, h, w]` from shallow to deep, of any widths and resolutions. Starting with the
    deepest, each student feature is fused with the result of the deeper features, then brought to the teacher's shape. The
    fusions are trained with the student, in its precision, but are not part of it. The authors raise the weight linearly
    over 20 epochs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fusions = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make the fusions for features of these shapes, as wide inside as the deepest student feature, at most 512."""
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
    """Attention-based fusion `x ← a_x·x + a_y·y` of a feature x with y from the deeper layers.

    The attention maps a_x and a_y are made from both.
    """

    def __init__(self, s: Tensor, t: Tensor, width: int, *, deepest: bool) -> None:
        super().__init__()
        self.narrow = _convolution(s.shape[1], width, 1)
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())
        self.widen = _convolution(width, t.shape[1], 3)
        self.to(s.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, s: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """The fused feature in the teacher's shape, and the tensor for the fusion of the next shallower layer.

        size: height and width of the teacher's feature.
        """
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
