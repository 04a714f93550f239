"""Relational knowledge distillation (Park et al. 2019, 1904.05068)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.geometry import differences, embeddings, gram, ratio, unit
from edgekd.distill.methods.options import Weight


@method(pooled=True, rows=ROWS)
def rkd(f_s: Sequence[Tensor], f_t: Sequence[Tensor], *, distance: Weight = 25.0, angle: Weight = 50.0) -> Tensor:
    """Sum over layers of `distance · SmoothL1(distances) + angle · SmoothL1(angles)`.

    f_s, f_t: lists of `[batch, channels]`, or of maps, which are averaged over positions; channels may differ. The means
    are over all pairs and triplets, also those of a sample with itself, as in the authors' code. The angles take batch³
    numbers.
    """
    return torch.stack(
        [
            distance * smooth_l1_loss(distances(s), distances(t)) + angle * smooth_l1_loss(angles(s), angles(t))
            for s, t in embeddings(f_s, f_t)
        ]
    ).sum()


def distances(e: Tensor) -> Tensor:
    """The Euclidean distances of all pairs, divided by the mean of the distances that are not 0, `[batch, batch]`."""
    d = torch.cdist(e, e, compute_mode="donot_use_mm_for_euclid_dist")
    return ratio(d, d.sum() / (d > 0).sum().clamp(min=1))


def angles(e: Tensor) -> Tensor:
    """The cosines of angles: entry `[i, j, k]` is for the angle at i between j and k.

    The entry is 0 if j or k coincides with i.
    """
    return gram(unit(differences(e)))
