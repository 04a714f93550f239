"""Relations between the samples of a batch, which relational methods compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.sizes import embedding
from edgekd.models.accelerator import autocast


def embeddings(f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """A pair of embeddings `[batch, channels]` for each layer; channels may differ."""
    for s, t in zip(f_s, f_t, strict=True):
        yield embedding(full(s)), embedding(taught(t))


def ratio(x: Tensor, y: Tensor) -> Tensor:
    """The quotient `x / y`; for y = 0 it is 0 with gradient 0, so that equal samples give no NaN."""
    return x / y.masked_fill(y == 0, torch.inf)


def unit(x: Tensor) -> Tensor:
    """The vectors along the last axis, scaled to length 1. A zero vector stays zero."""
    return ratio(x, torch.linalg.vector_norm(x, dim=-1, keepdim=True))


def gram(x: Tensor) -> Tensor:
    """The inner products of all pairs of vectors, `[..., n, d]` to `[..., n, n]`, in full precision under autocast."""
    with autocast(x.device, bf16=False):
        return x @ x.mT


def differences(x: Tensor) -> Tensor:
    """The differences `x_i - x_j`, `[n, d]` to `[n, n, d]`."""
    return x[:, None] - x[None]
