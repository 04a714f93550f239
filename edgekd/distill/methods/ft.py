"""Factor transfer: paraphrasing complex networks (Kim et al. 2018, 1802.04977)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.options import Weight
from edgekd.distill.methods.sizes import pairs_of_one_size

Rate = Annotated[float, Field(gt=0)]
SLOPE = 0.1


@method(prepares=True, rows=ROWS)
class FT(nn.Module):
    """Sum over layers of `mean |F_t/‖F_t‖ − F_s/‖F_s‖|^p2` with the norm p1, plus the paraphraser's reconstruction.

    f_s, f_t: lists of `[batch, channels, h, w]`; the larger map is average-pooled to the smaller. F_t is the factor that a
    paraphraser (an autoencoder of rate `k`) finds in f_t. F_s is the factor that a translator makes of f_s. Each factor is
    normalised as one vector per sample; the mean is over batch and entries. The authors' weight is 500.

    The paper trains the paraphraser beforehand. Here it is trained with the student, on the mean squared error of its
    reconstruction alone: the translator's loss does not reach it. `reconstruction` is the weight of that error within the
    loss. Its default 1/500 makes up for the usual weight 500, which would raise the paraphraser's learning rate.
    """

    def __init__(
        self, *, k: Rate = 0.5, p1: Literal[1, 2] = 2, p2: Literal[1, 2] = 1, reconstruction: Weight = 0.002
    ) -> None:
        super().__init__()
        self.k, self.p1, self.p2, self.reconstruction = k, p1, p2, reconstruction
        self.paraphrasers = nn.ModuleList()
        self.translators = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make paraphrasers and translators for features of these shapes."""
        widths = [max(1, round(self.k * t.shape[1])) for t in f_t]
        self.paraphrasers = nn.ModuleList(Paraphraser(t, width) for t, width in zip(f_t, widths, strict=True))
        self.translators = nn.ModuleList(_encoder(s, width) for s, width in zip(f_s, widths, strict=True))

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.translators:
            self.prepare(f_s, f_t)
        losses = []
        layers = zip(self.paraphrasers, self.translators, pairs_of_one_size(f_s, f_t), strict=True)
        for paraphraser, translator, (s, t) in layers:
            factor, rebuilt = paraphraser(t)
            losses.append(self.distance(translator(s), factor.detach()) + self.reconstruction * mse_loss(rebuilt, t))
        return torch.stack(losses).sum()

    def distance(self, factor_s: Tensor, factor_t: Tensor) -> Tensor:
        """The distance of two factors `[batch, channels, h, w]`, each normalised as one vector per sample."""
        a, b = (normalize(factor.flatten(1), p=self.p1) for factor in (factor_s, factor_t))
        return (a - b).abs().pow(self.p2).mean()


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's feature: the encoder's output is the factor."""

    def __init__(self, t: Tensor, width: int) -> None:
        super().__init__()
        self.encoder = _encoder(t, width)
        self.decoder = _chain(nn.ConvTranspose2d, (width, width, t.shape[1], t.shape[1])).to(t.device)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The factor of t, and the feature rebuilt from that factor."""
        factor: Tensor = self.encoder(t)
        return factor, self.decoder(factor)


def _encoder(f: Tensor, width: int) -> nn.Sequential:
    return _chain(nn.Conv2d, (f.shape[1], f.shape[1], width, width)).to(f.device)


def _chain(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], widths: Sequence[int]) -> nn.Sequential:
    """A chain of 3x3 convolutions, each followed by a leaky ReLU."""
    return nn.Sequential(
        *(layer for a, b in pairwise(widths) for layer in (kind(a, b, 3, padding=1), nn.LeakyReLU(SLOPE)))
    )
