"""How the samples of a batch lie to one another: what relational methods compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.sizes import embedding
from edgekd.models.accelerator import autocast


def embeddings(f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of `[batch, channels]`, one for each layer; channels may differ."""
    for s, t in zip(f_s, f_t, strict=True):
        yield embedding(full(s)), embedding(taught(t))


def ratio(x: Tensor, y: Tensor) -> Tensor:
    """`x / y`; where y is 0 it is 0 and so is its gradient, so that samples which coincide give no NaN."""
    return x / y.masked_fill(y == 0, torch.inf)


def unit(x: Tensor) -> Tensor:
    """Vectors along the last axis, scaled to length 1; a zero vector stays one."""
    return ratio(x, torch.linalg.vector_norm(x, dim=-1, keepdim=True))


def gram(x: Tensor) -> Tensor:
    """Inner products of all pairs of vectors, `[..., n, d]` to `[..., n, n]`; autocast does not lower their precision."""
    with autocast(x.device, bf16=False):
        return x @ x.mT


def differences(x: Tensor) -> Tensor:
    """`x_i - x_j`, `[n, d]` to `[n, n, d]`."""
    return x[:, None] - x[None]
