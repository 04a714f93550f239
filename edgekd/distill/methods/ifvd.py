"""IFVD: intra-class feature variation distillation (Wang et al. 2020, ECCV)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate, one_hot

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import method
from edgekd.distill.methods.sizes import pairs_of_one_size


@method()
@in_full_precision
def ifvd(f_s: Sequence[Tensor], f_t: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Sum over layers of the mean over positions of `(M_s − M_t)²`, `M(p) = cos(f(p), prototype of p's class)`.

    f_s, f_t: lists of `[batch, channels, h, w]`; channels may differ, and the larger map is average-pooled to the
    smaller. mask: int64 `[batch, H, W]`, taken at the map's size by its nearest position. A prototype is the mean of an
    image's features over the positions of a class, as in the authors' code. Positions of -1 do not count; that code
    counts them as zeros. The mean is over all positions of the batch. The paper compares the last feature before the
    classifier: name this layer.
    """
    losses = []
    for s, t in pairs_of_one_size(f_s, f_t):
        labels = interpolate(mask[:, None].float(), s.shape[2:], mode="nearest").long().flatten(1)
        counted = labels >= 0
        members = one_hot(labels.clamp(min=0)) * counted[:, :, None]
        error = (variation(s, members) - variation(t, members)).square()
        losses.append((error * counted).sum() / counted.sum().clamp(min=1))
    return torch.stack(losses).sum()


def variation(f: Tensor, members: Tensor) -> Tensor:
    """The cosine of each position's feature and the prototype of its class, `[batch, positions]`.

    f: `[batch, channels, h, w]`. members: `[batch, positions, classes]`, 1 for the class of a position; all 0 gives 0.
    """
    f, of = f.flatten(2).mT, members.to(f.dtype)
    prototypes = of.mT @ f / of.sum(1).clamp(min=1)[:, :, None]
    return cosine_similarity(f, of @ prototypes, dim=2)
