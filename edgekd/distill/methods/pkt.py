"""Probabilistic knowledge transfer (Passalis & Tefas 2018, 1803.10837), with the cosine kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.geometry import embeddings, gram, unit

EPSILON = 1e-7  # as in the authors' code


@method(pooled=True, rows=ROWS)
def pkt(f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean over elements of `p_t log(p_t / p_s)`.

    p[i, j] is the probability of sample j as a neighbour of sample i. f_s, f_t: lists of `[batch, channels]`, or of maps,
    which are averaged over positions; channels may differ. The mean is over the batch × batch elements, as in the authors'
    code; the usual weight 30000 is for that mean. It equals the mean KL divergence of a row divided by the batch size.
    """
    return torch.stack([_one(neighbours(s), neighbours(t)) for s, t in embeddings(f_s, f_t)]).sum()


def neighbours(e: Tensor) -> Tensor:
    """The conditional probabilities `[batch, batch]` of neighbours, whose rows sum to 1.

    They are cosine similarities, shifted to 0..1; each sample is its own neighbour too.
    """
    kernel = ((gram(unit(e)) + 1) / 2).clamp(min=0)  # rounding can take a cosine below -1
    return kernel / kernel.sum(1, keepdim=True)


def _one(p_s: Tensor, p_t: Tensor) -> Tensor:
    return (p_t * ((p_t + EPSILON) / (p_s + EPSILON)).log()).mean()
