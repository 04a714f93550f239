"""Correlation congruence (Peng et al. 2019, 1904.01802), with the Taylor series of the paper's Gaussian kernel."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, factorial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.geometry import embeddings, gram, unit


@method(pooled=True, rows=ROWS)
def cc(
    f_s: Sequence[Tensor],
    f_t: Sequence[Tensor],
    *,
    gamma: Annotated[float, Field(gt=0)] = 0.4,
    order: Annotated[int, Field(ge=1)] = 2,
) -> Tensor:
    """Sum over layers of `‖C_s - C_t‖²_F / batch²`, C the correlation matrix of the batch.

    f_s, f_t: lists of `[batch, channels]`, or of maps, which are averaged over positions; channels may differ.
    RepDistiller gives the same name to another loss, a product of differences of consecutive samples that depends on the
    batch's order. The weight 0.02 of that loss does not fit here.
    """
    return torch.stack(
        [(correlation(s, gamma, order) - correlation(t, gamma, order)).square().mean() for s, t in embeddings(f_s, f_t)]
    ).sum()


def correlation(e: Tensor, gamma: float, order: int) -> Tensor:
    """The kernel `exp(-γ‖x_i - x_j‖²)` of unit vectors, `[batch, batch]`, by its Taylor series.

    The series is `e^(-2γ) Σ_p (2γ)^p / p! · (x_i · x_j)^p` with p up to `order`.
    """
    cosine = gram(unit(e))
    terms = [(2 * gamma) ** p / factorial(p) * cosine**p for p in range(order + 1)]
    return exp(-2 * gamma) * torch.stack(terms).sum(0)
