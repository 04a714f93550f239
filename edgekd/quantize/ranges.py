"""The range of values that 8 bits cover, decided from an activation's statistics: `quantize.calibration`.

minmax          all observed values
moving_average  of the batches' extremes (Jacob et al. 2018, 1712.05877, section 3.1)
percentile      all but the outermost 0.001 % (Wu et al. 2020, 2004.09602, section 3.2)
entropy         least information lost (Migacz 2017, "8-bit Inference with TensorRT", GTC; KL divergence)
mse             least squared error (Banner et al. 2019, 1810.05723; Choukroun et al. 2019, 1902.06822)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from edgekd.quantize.statistics import BINS, Statistics

Range = tuple[float, float]
Floats = npt.NDArray[np.float64]
PERCENTILE = 99.999
MOMENTUM = 0.9
CANDIDATES = 128
LEVELS = 256


def minmax(statistics: Statistics, *, symmetric: bool) -> Range:
    return statistics.low, statistics.high


def moving_average(statistics: Statistics, *, symmetric: bool) -> Range:
    average = np.array(statistics.extremes[0])
    for extremes in statistics.extremes[1:]:
        average = MOMENTUM * average + (1 - MOMENTUM) * np.array(extremes)
    return float(average[0]), float(average[1])


def percentile(statistics: Statistics, *, symmetric: bool) -> Range:
    """The percentile of |x| for a symmetric range, otherwise the same percentile of each tail."""
    counts, edges = statistics.counts.numpy(), np.linspace(-statistics.limit, statistics.limit, BINS + 1)
    if symmetric:
        outwards = counts[BINS // 2 :] + counts[: BINS // 2][::-1]
        threshold = float(edges[BINS // 2 :][_quantile(outwards, PERCENTILE / 100)])
        return clipped(statistics, threshold)
    low, high = edges[_quantile(counts, 1 - PERCENTILE / 100) - 1], edges[_quantile(counts, PERCENTILE / 100)]
    return max(statistics.low, float(low)), min(statistics.high, float(high))


def entropy(statistics: Statistics, *, symmetric: bool) -> Range:
    """The threshold whose quantized distribution diverges least from the clipped one."""
    counts = statistics.counts.numpy().astype(np.float64)
    counts[BINS // 2] = counts[BINS // 2 + 1]  # the zeros of a ReLU are exact at every scale, so they must not decide
    return min(_candidates(statistics), key=lambda limits: _divergence(counts, statistics, limits, symmetric))


def mse(statistics: Statistics, *, symmetric: bool) -> Range:
    """The threshold with the least E[(x - Q(x))²]."""
    filled = np.flatnonzero(statistics.counts.numpy())
    counts, x = statistics.counts.numpy()[filled], statistics.centres.numpy()[filled]

    def error(limits: Range) -> float:
        scale, zero_point = grid(limits, symmetric)
        quantized = (np.clip(np.rint(x / scale) + zero_point, 0, LEVELS - 1) - zero_point) * scale
        return float(counts @ (x - quantized) ** 2)

    return min(_candidates(statistics), key=error)


RANGES: Mapping[str, Callable[..., Range]] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def clipped(statistics: Statistics, threshold: float) -> Range:
    """The observed range, clipped to `[-threshold, threshold]`."""
    return max(statistics.low, -threshold), min(statistics.high, threshold)


def grid(limits: Range, symmetric: bool) -> tuple[float, float]:
    """Scale and zero-point of a range extended to contain zero. The zero-point counts from the lowest of 256 levels."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if symmetric:
        return 2 * max(-low, high) / (LEVELS - 1), LEVELS / 2
    scale = (high - low) / (LEVELS - 1)
    return scale, float(np.rint(-low / scale))


def _candidates(statistics: Statistics) -> Iterator[Range]:
    """Ranges from the full observed range down to a hundredth of it."""
    largest = max(-statistics.low, statistics.high)
    return (clipped(statistics, share * largest) for share in np.geomspace(1, 0.01, CANDIDATES))


def _quantile(counts: npt.NDArray[np.int64], share: float) -> int:
    """The number of bins, from the first on, that hold this share of the values."""
    cumulated = np.cumsum(counts)
    return int(np.searchsorted(cumulated, share * cumulated[-1])) + 1


def _divergence(counts: Floats, statistics: Statistics, limits: Range, symmetric: bool) -> float:
    """KL(P || Q) of the clipped histogram P and its quantized form Q.

    P has the values outside the range added to its ends. Q spreads each level's inner mass evenly over the filled bins.
    """
    scale, zero_point = grid(limits, symmetric)
    level = np.rint(statistics.centres.numpy() / scale) + zero_point
    inside = np.flatnonzero((level >= 0) & (level < LEVELS))
    level = level[inside].astype(np.int64)
    p = counts[inside].copy()
    mass = np.bincount(level, p, LEVELS)
    filled = p > 0
    bins = np.bincount(level, filled, LEVELS)
    q = np.where(filled, mass[level] / np.maximum(bins[level], 1), 0.0)
    p[0] += counts[: inside[0]].sum()
    p[-1] += counts[inside[-1] + 1 :].sum()
    if q[0] == 0 < p[0] or q[-1] == 0 < p[-1]:  # the end bin was empty before clipping
        return float("inf")
    p, q = p[filled] / p.sum(), q[filled] / q.sum()
    return float((p * np.log(p / q)).sum())
