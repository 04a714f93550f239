"""SKD: structured knowledge distillation, its pairwise part (Liu et al. 2019, 1903.04197, equation 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import max_pool2d

from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.geometry import gram, unit
from edgekd.distill.methods.sizes import pairs_of_one_size

Scale = Annotated[float, Field(gt=0, le=1)]


@method(rows=ROWS)
def skd(f_s: Sequence[Tensor], f_t: Sequence[Tensor], *, scale: Scale = 0.5) -> Tensor:
    """Sum over layers of the mean over pairs of nodes of `(a_s − a_t)²`, averaged over the batch.

    `a_ij` is the cosine of the features of two nodes i and j of an image. A node is the maximum, channel by channel, over
    a patch. A patch is `scale` of the map high and wide; 0.5, as in the authors' code, gives 2 x 2 nodes. A map of n nodes
    takes n² numbers.

    f_s, f_t: lists of `[batch, channels, h, w]`; channels may differ, and the larger map is average-pooled to the smaller.
    The paper compares the last feature before the classifier, beside `kd` of each position and an adversarial term.
    """
    errors = [(similarity(s, scale) - similarity(t, scale)).square().mean() for s, t in pairs_of_one_size(f_s, f_t)]
    return torch.stack(errors).sum()


def similarity(f: Tensor, scale: float) -> Tensor:
    """The cosines of all pairs of an image's nodes, `[batch, channels, h, w]` to `[batch, nodes, nodes]`."""
    patch = [max(1, int(size * scale)) for size in f.shape[2:]]
    return gram(unit(max_pool2d(f, patch, ceil_mode=True).flatten(2).mT))
