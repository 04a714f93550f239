"""fit_plots: true and estimated values of test samples, on axes of one scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgekd.figures.figures import Fit, Report
from edgekd.report.axes import Axis
from edgekd.report.curves import DIGIT, around

WIDTH, HEIGHT, RIGHT, TOP, BOTTOM = 340, 300, 18, 12, 44


@dataclass(frozen=True)
class FitPlot:
    """The plot of one value. A point on the line from corner to corner is an estimate without error."""

    name: str
    width: int
    height: int
    x: Axis
    y: Axis
    points: list[tuple[float, float]]
    described: str


def fit_plots(report: Report) -> Iterator[FitPlot]:
    """The plot of each value that has points, and whose axis float64 can hold."""
    for fit in report.fits:
        values = [value for point in fit.points for value in point]
        if values and math.isfinite(max(values) - min(values)):
            yield _plot(fit)


def _plot(fit: Fit) -> FitPlot:
    values = [value for point in fit.points for value in point]
    low, high = around(min(values), max(values))
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    x = Axis(low, high, 12 + DIGIT * max(len(text) for _, text in y.ticks), WIDTH - RIGHT)
    told = f"{len(fit.points)} test samples with true values from {fit.points[0][0]:g} to {fit.points[-1][0]:g}"
    return FitPlot(fit.name, WIDTH, HEIGHT, x, y, [(x(true), y(found)) for true, found in fit.points], told)
