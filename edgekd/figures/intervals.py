"""wilson_interval: for a share; paired_interval: for the difference of two models on the same samples."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Z95 = 1.959964
Right = npt.NDArray[np.bool_]


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share, in percent (Wilson 1927)."""
    low, high = _wilson(right / n, n, Z95)
    return round(100 * low, 3), round(100 * high, 3)


def paired_interval(a: Right, b: Right, z: float = Z95) -> tuple[float, float]:
    """The interval of the accuracy of `a` minus that of `b` on the same samples, in points.

    a, b: whether each answer is right, `[samples]`; z: quantile of the normal distribution, 1.96 for 95 %. This is method
    10 of Newcombe (1998, Statistics in Medicine 17:2635). Only samples on which the models differ tell them apart; two
    separate intervals ignore that.
    """
    n, share_a, share_b = len(a), float(a.mean()), float(b.mean())
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    agreement = both * neither - only_a * only_b
    corrected = max(agreement - n / 2, 0.0) if agreement > 0 else float(agreement)
    phi = corrected / math.sqrt(margins) if margins else 0.0
    (low_a, high_a), (low_b, high_b) = _wilson(share_a, n, z), _wilson(share_b, n, z)

    def span(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))

    difference = share_a - share_b
    low = difference - span(share_a - low_a, high_b - share_b)
    high = difference + span(high_a - share_a, share_b - low_b)
    return 100 * low, 100 * high


def _wilson(p: float, n: int, z: float) -> tuple[float, float]:
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
