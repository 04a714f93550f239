"""Similarity-preserving knowledge distillation (Tung & Mori 2019, 1907.09682)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.geometry import gram, unit
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.sizes import embedding


@method(pooled=True, rows=ROWS)
def sp(f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
    """Sum over layers of `‖G_s - G_t‖²_F / batch²`, G the row-normalised similarity matrix of the batch.

    f_s, f_t: lists of maps `[batch, channels, h, w]`, flattened as in the paper, or of vectors `[batch, channels]`. If a
    map is compared with a vector (for example a cached embedding), the map is averaged over positions.
    """
    return torch.stack([_one(full(s), taught(t)) for s, t in zip(f_s, f_t, strict=True)]).sum()


def similarity(f: Tensor) -> Tensor:
    """The similarity matrix `F Fᵀ` with rows of length 1, `[batch, ...]` to `[batch, batch]`."""
    return unit(gram(f.flatten(1)))


def _one(s: Tensor, t: Tensor) -> Tensor:
    if s.ndim != t.ndim:
        s, t = embedding(s), embedding(t)
    return (similarity(s) - similarity(t)).square().mean()
