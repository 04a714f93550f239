"""Neuron selectivity transfer (Huang & Wang 2017, 1707.01219)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.options import Weight
from edgekd.distill.methods.sizes import pairs_of_one_size

Degree = Annotated[int, Field(ge=1)]


@method(rows=ROWS)
@in_full_precision
def nst(f_s: Sequence[Tensor], f_t: Sequence[Tensor], *, degree: Degree = 2, constant: Weight = 0.0) -> Tensor:
    """Sum over layers of the squared maximum mean discrepancy between the channels of student and teacher.

    The discrepancy is `E k(t, t') + E k(s, s') − 2 E k(s, t)` with the polynomial kernel `k(x, y) = (xᵀy + c)^d`. A
    channel's pattern over positions, normalised to length 1, is a sample of the distribution. The means are over batch and
    pairs of channels.

    f_s, f_t: lists of `[batch, channels, h, w]`; channels may differ, and the larger map is average-pooled to the
    smaller.
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.mT + constant).pow(degree).mean()

    losses = []
    for pair in pairs_of_one_size(f_s, f_t):
        s, t = (normalize(f.flatten(2), dim=2) for f in pair)
        losses.append(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t))
    return torch.stack(losses).sum()
