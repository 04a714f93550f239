"""Logit standardization (Sun et al. 2024, 2403.01427, equation 9): a pre-processing of the logit methods."""

from __future__ import annotations

from torch import Tensor


def standardized(z: Tensor) -> Tensor:
    """The logits `[batch, classes]`, each row scaled to mean 0 and standard deviation 1.

    The student then need not match the teacher's scale and shift, only the relations between classes. The deviation is
    unbiased, and 1e-7 guards constant rows; both are as in the authors' code.
    Raises ValueError for rows of one number, which have no deviation.
    """
    if z.shape[1] == 1:
        raise ValueError("standardize: rows of one number have no deviation; leave the option out")
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)
