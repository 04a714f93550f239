"""Metric: the quality of answers, computed from a part for each sample. One bootstrap gives intervals for all metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekd.figures.candidate import Origin, Score

Judged = npt.NDArray[np.float64]  # [n, k]: each sample's part of the metric
Interval = tuple[float, float]
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Metric:
    """A function that gives any subset of judged samples a figure; `better` is the direction of improvement.

    interval: closed form of the 95 % interval of a figure. paired: closed form of the 95 % interval of a difference
    (reference - other) on the same samples. Without a closed form the bootstrap gives the interval.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    value: Callable[[Judged], float]
    interval: Callable[[Judged], Interval] | None = None
    paired: Callable[[Judged, Judged], Interval] | None = None

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.better == "higher" else -1

    def rounded(self, value: float) -> float:
        """The figure without digits that mean nothing: three decimals of a percent, else six significant digits."""
        return round(value, 3) if self.unit == "%" else float(f"{value:.6g}")


def in_points(drop: float, reference: float, unit: str) -> float:
    """A drop as a budget counts it: in points of percent, or of other figures in percent of the reference's."""
    return drop if unit == "%" else 100 * drop / max(abs(reference), 1e-12)


@dataclass(frozen=True)
class Drop:
    """A model's loss against a reference on the same samples, in the metric's unit. Below 0: better."""

    value: float
    low: float
    high: float


def score_of(
    metric: Metric,
    judged: Judged,
    *,
    runtime: str,
    origin: Origin = "host",
    parts: Mapping[str, float] | None = None,
) -> Score:
    """The figure of the samples with its 95 % interval. `parts`: figures of subsets, for example of each class."""
    low, high = metric.interval(judged) if metric.interval is not None else bootstrap(metric, judged)
    return Score(
        metric=metric.name,
        unit=metric.unit,
        better=metric.better,
        value=metric.rounded(metric.value(judged)),
        low=low,
        high=high,
        n=len(judged),
        split="test",
        runtime=runtime,
        origin=origin,
        parts=dict(parts or {}),
    )


def drop_of(metric: Metric, reference: Judged, judged: Judged) -> Drop:
    """The drop from the reference's answers to these on the same samples, with its paired 95 % interval."""
    value = metric.sign * (metric.value(reference) - metric.value(judged))
    low, high = metric.paired(reference, judged) if metric.paired is not None else _paired(metric, reference, judged)
    low, high = (low, high) if metric.sign > 0 else (-high, -low)
    return Drop(metric.rounded(value), metric.rounded(low), metric.rounded(high))


def bootstrap(metric: Metric, judged: Judged) -> Interval:
    """The 95 % percentile interval over resampled samples (Efron 1979)."""
    values = [metric.value(judged[rows]) for rows in _draws(len(judged))]
    low, high = np.percentile(values, (2.5, 97.5))
    return metric.rounded(float(low)), metric.rounded(float(high))


def _paired(metric: Metric, reference: Judged, judged: Judged) -> Interval:
    """The 95 % percentile interval of reference - judged. Each resample draws the same samples for both."""
    values = [metric.value(reference[rows]) - metric.value(judged[rows]) for rows in _draws(len(judged))]
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _draws(n: int) -> Iterator[npt.NDArray[np.int64]]:
    draw = np.random.default_rng(SEED)
    return (draw.integers(n, size=n) for _ in range(RESAMPLES))
