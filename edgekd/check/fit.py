"""fits_of: true and estimated values of some test samples, for the report's plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.figures import Fit

POINTS = 300
VALUES = 6  # plots; report.json has the error of each further value


def fits_of(names: Sequence[str], labels: NDArray[np.floating], answers: NDArray[np.floating]) -> Iterator[Fit]:
    """For each of the first `VALUES` values up to `POINTS` samples, in even steps of rank from the least true value to the most.

    labels, answers: values `[samples, values]`, in the unit of the data. An answer that is not finite has no point.
    """
    for i, name in enumerate(names[:VALUES]):
        finite = np.flatnonzero(np.isfinite(answers[:, i]))
        order = finite[np.argsort(labels[finite, i], kind="stable")]
        if len(order):
            order = order[np.linspace(0, len(order) - 1, min(POINTS, len(order))).astype(np.int64)]
        yield Fit(name=name, points=tuple((_short(labels[at, i]), _short(answers[at, i])) for at in order))


def _short(value: float) -> float:
    return float(f"{value:.5g}")
