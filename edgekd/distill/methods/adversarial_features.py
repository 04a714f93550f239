"""Adversarial distillation of feature maps: a discriminator tells the teacher's maps from the student's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.reversal import reversed_gradient
from edgekd.distill.methods.sizes import pairs_of_one_size


@method(prepares=True, rows=ROWS)
class AdversarialFeatures(nn.Module):
    """Sum over layers of `-mean log D(f_t) - mean log(1 - D(r(f_s)))`.

    The discriminator D lowers the loss; the student and its regressor r raise it. f_s, f_t: lists of
    `[batch, channels, h, w]`; the larger map of a pair is average-pooled to the smaller. r is a 1x1 convolution to the
    teacher's channels. D, three convolutions, judges every position; the mean is over batch and positions. D and r are
    trained with the student, which gets a reversed gradient (see `adversarial`), but are not part of it. The loss does not
    know which sample a feature belongs to: use it beside `kd`.
    """

    def __init__(self, *, hidden: Annotated[int, Field(ge=1)] = 64) -> None:
        super().__init__()
        self.hidden = hidden
        self.regressors, self.discriminators = nn.ModuleList(), nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make a regressor and a discriminator for each pair."""
        pairs = list(zip(f_s, f_t, strict=True))
        self.regressors = nn.ModuleList(nn.Conv2d(s.shape[1], t.shape[1], 1, device=s.device) for s, t in pairs)
        self.discriminators = nn.ModuleList(self._discriminator(t.shape[1]).to(t.device) for _, t in pairs)

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.discriminators:
            self.prepare(f_s, f_t)
        losses = []
        judged = zip(self.regressors, self.discriminators, pairs_of_one_size(f_s, f_t), strict=True)
        for regressor, discriminator, (s, t) in judged:
            theirs, ours = discriminator(t), discriminator(reversed_gradient(regressor(s)))
            losses.append(binary_cross_entropy_with_logits(theirs, torch.ones_like(theirs)))
            losses.append(binary_cross_entropy_with_logits(ours, torch.zeros_like(ours)))
        return torch.stack(losses).sum()

    def _discriminator(self, channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, self.hidden, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(self.hidden, self.hidden, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(self.hidden, 1, 1),
        )  # fmt: skip
