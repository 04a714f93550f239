"""Attention transfer (Zagoruyko & Komodakis 2017, 1612.03928, equation 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.precision import full
from edgekd.distill.methods.sizes import pairs_of_one_size


def attention(f: Tensor) -> Tensor:
    """The attention map: mean over channels of f², normalised, `[batch, c, h, w]` to `[batch, h·w]`."""
    return normalize(full(f).square().mean(1).flatten(1), dim=1)


@method(rows=ROWS)
def at(f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean squared difference of attention maps.

    f_s, f_t: lists of `[batch, channels, h, w]`; channels may differ, and the larger map is average-pooled to the
    smaller. The mean is over batch and positions, as in the authors' code; the usual weight 1000 is for that mean.
    Raises ValueError for maps of a single position.
    """
    pairs = list(pairs_of_one_size(f_s, f_t))
    if any(s[0, 0].numel() == 1 for s, _ in pairs):
        raise ValueError("a map of one position has no attention; choose layers before the pooling")
    return torch.stack([(attention(s) - attention(t)).square().mean() for s, t in pairs]).sum()
