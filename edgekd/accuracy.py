"""top1_of: the share of right answers with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from edgekd.report.model import Accuracy, Origin


def top1_of(
    found: npt.NDArray[Any], labels: npt.NDArray[Any], classes: Sequence[str], runtime: str, origin: Origin = "host"
) -> Accuracy:
    """Top-1 on the test split; the classes that were found and the right ones, `[samples]`."""
    right = found == labels
    low, high = wilson_interval(int(right.sum()), len(right))
    per_class = {
        name: round(float(100 * right[labels == i].mean()), 2) for i, name in enumerate(classes) if (labels == i).any()
    }
    return Accuracy(
        top1=round(100 * float(right.mean()), 3),
        low=low,
        high=high,
        n=len(right),
        split="test",
        runtime=runtime,
        origin=origin,
        per_class=per_class,
    )


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share, in percent (Wilson 1927)."""
    z, p = 1.959964, right / n
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return round(100 * (centre - half) / (1 + z**2 / n), 3), round(100 * (centre + half) / (1 + z**2 / n), 3)
