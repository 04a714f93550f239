"""Masked generative distillation (Yang et al. 2022, 2205.01529)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.sizes import pairs_of_one_size

Share = Annotated[float, Field(ge=0, lt=1)]


@method(auto="last", prepares=True, rows=ROWS)
class MGD(nn.Module):
    """Sum over layers of `‖G(align(f_s)·M) − f_t‖²`: G generates the teacher's feature from the masked student's.

    f_s, f_t: lists of `[batch, channels, h, w]`; the larger map is average-pooled to the smaller. `align` is a 1x1
    convolution if the widths differ. M drops the share `mask` of each sample's positions at random. G is two 3x3
    convolutions with a ReLU between them. The squares are summed over channels and positions and averaged over the batch.
    The paper's weights are for that sum: 7e-5 for classification (mask 0.15), 2e-5 for detection (mask 0.65).

    M drops positions, as in the paper; the authors' code for classification drops whole channels.
    """

    def __init__(self, *, mask: Share = 0.15) -> None:
        super().__init__()
        self.mask = mask
        self.aligners = nn.ModuleList()
        self.generators = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make aligners and generators for features of these shapes."""
        widths = [(s.shape[1], t.shape[1]) for s, t in zip(f_s, f_t, strict=True)]
        aligners = [nn.Conv2d(c_s, c_t, 1) if c_s != c_t else nn.Identity() for c_s, c_t in widths]
        self.aligners = nn.ModuleList(aligners).to(f_s[0].device)
        self.generators = nn.ModuleList(_generator(c_t) for _, c_t in widths).to(f_s[0].device)

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.generators:
            self.prepare(f_s, f_t)
        losses = []
        layers = zip(self.aligners, self.generators, pairs_of_one_size(f_s, f_t), strict=True)
        for align, generate, (s, t) in layers:
            batch, _, h, w = s.shape
            kept = torch.rand(batch, 1, h, w, device=s.device) >= self.mask
            losses.append((generate(align(s) * kept) - t).square().sum() / batch)
        return torch.stack(losses).sum()


def _generator(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
    )
