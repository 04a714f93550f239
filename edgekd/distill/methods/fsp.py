"""A gift from knowledge distillation: the flow of the solution procedure (Yim et al. 2017, CVPR)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, mse_loss

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.precision import full, taught


def flow(f: Tensor, g: Tensor) -> Tensor:
    """The FSP matrix `G = F Gᵀ / (h·w)` of two layers, `[batch, channels of f, channels of g]`.

    The larger map is average-pooled to the smaller.
    """
    size = (min(f.shape[2], g.shape[2]), min(f.shape[3], g.shape[3]))
    a, b = (adaptive_avg_pool2d(x, size).flatten(2) for x in (f, g))
    return a @ b.mT / (size[0] * size[1])


@method(prepares=True, rows=ROWS)
class FSP(nn.Module):
    """Sum over consecutive layers of the mean squared difference of FSP matrices.

    f_s, f_t: lists of `[batch, channels, h, w]` in the order of the network, at least two (else ValueError). Student and
    teacher may have different resolutions, because the matrix does not depend on them. The paper needs equal widths. If
    widths differ here, a 1x1 convolution adapts the student's; it is trained with the student but not part of it. The
    paper trains in two stages, this loss first; here it is added to the other losses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make adapters for the pairs of features whose widths differ."""
        self.adapters = nn.ModuleList(
            nn.Conv2d(s.shape[1], t.shape[1], 1, bias=False, device=s.device)
            if s.shape[1] != t.shape[1]
            else nn.Identity()
            for s, t in zip(f_s, f_t, strict=True)
        )

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if len(f_s) < 2:
            raise ValueError(
                f"fsp compares the flow between consecutive layers; give at least two layers, not {len(f_s)}"
            )
        if not self.adapters:
            self.prepare(f_s, f_t)
        adapted = [adapter(full(s)) for adapter, s in zip(self.adapters, f_s, strict=True)]
        taught_ones = [taught(t) for t in f_t]
        pairs = zip(pairwise(adapted), pairwise(taught_ones), strict=True)
        return torch.stack([mse_loss(flow(*s), flow(*t)) for s, t in pairs]).sum()
