"""charts: small line charts of a training, over its epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekd.figures.figures import Report
from edgekd.figures.words import valued
from edgekd.report.axes import Axis

TERM_COLOURS = 8
POINTS = 400  # of a line; more cannot be seen and make the page large
WIDTH, HEIGHT, RIGHT, TOP, BOTTOM = 300, 190, 18, 12, 26
DIGIT = 7.0  # pixels; no digit of the page's fonts is wider at this size


@dataclass(frozen=True)
class Line:
    """A line of a chart. dot: the place of its only point, which is drawn as a dot; None for several points."""

    name: str
    colour: int
    points: str
    last: str
    dot: tuple[float, float] | None


@dataclass(frozen=True)
class Chart:
    """A small line chart over epochs."""

    title: str
    width: int
    height: int
    x: Axis
    y: Axis
    lines: list[Line]

    @property
    def described(self) -> str:
        """The chart in words, for readers who do not see it."""
        return "; ".join(f"{line.name}: {line.last}" for line in self.lines)


def charts(curves: Sequence[dict[str, float]], metric: str, unit: str = "") -> list[Chart]:
    """Charts of the metric on the hold-out split, of the loss with its terms, and of the learning rate.

    unit: that of the metric; "%" has an axis from 0 to 100. A chart without data is left out.
    """
    keys = list(dict.fromkeys(key for epoch in curves for key in epoch))
    terms = [key for key in keys if key.startswith("loss/")]
    drawn = (
        chart(f"hold-out {metric}", curves, ["holdout"], percent if unit == "%" else from_zero),
        chart("loss, its terms unweighted", curves, ["loss", *terms], from_zero),
        chart("learning rate", curves, ["lr"], from_zero),
    )
    return [panel for panel in drawn if panel is not None]


def temperatures(report: Report, metric: str) -> list[Chart]:
    """The chart of the metric over the temperature. Differences are small, so its axis does not begin at 0."""
    curve = [{"epoch": temperature, "holdout": found} for temperature, found in report.temperature_curve]
    drawn = chart(f"hold-out {metric}", curve, ["holdout"], around)
    return [] if drawn is None else [drawn]


def chosen_temperature(report: Report) -> str:
    """The title of the temperature's curve, with the best temperature, the first of equals."""
    sign = 1 if report.student.better == "higher" else -1
    best, found = max(report.temperature_curve, key=lambda point: sign * point[1], default=(0.0, 0.0))
    return f"Temperature {best:g} was chosen, {valued(found, report.student.unit)} on the hold-out split (x: T)"


def chart(
    title: str,
    curves: Sequence[dict[str, float]],
    keys: Sequence[str],
    ends: Callable[[float, float], tuple[float, float]],
) -> Chart | None:
    """The chart of these keys; None if no epoch has a finite value of any. ends: the axis's ends from those of the data."""
    series = {key: finite_points(curves, key) for key in keys}
    series = {key: points for key, points in series.items() if points}
    if not series:
        return None
    values = [v for points in series.values() for _, v in points]
    epochs = [e for points in series.values() for e, _ in points]
    y = Axis(*ends(min(values), max(values)), HEIGHT - BOTTOM, TOP)
    left = 12 + DIGIT * max(len(text) for _, text in y.ticks)
    x = Axis(min(epochs), max(epochs), left, WIDTH - RIGHT, whole=True)
    lines = [
        Line(
            name=key.removeprefix("loss/"),
            colour=i % TERM_COLOURS,
            points=" ".join(f"{x(e)},{y(v)}" for e, v in thinned(points)),
            last=f"{points[-1][1]:.4g} "
            + ("at the end" if points[-1][0] == max(epochs) else f"at {points[-1][0]:g}, its last"),
            dot=(x(points[0][0]), y(points[0][1])) if len(points) == 1 else None,
        )
        for i, (key, points) in enumerate(series.items())
    ]
    return Chart(title, WIDTH, HEIGHT, x, y, lines)


def percent(low: float, high: float) -> tuple[float, float]:
    """The whole range of a share."""
    return min(low, 0.0), max(high, 100.0)


def from_zero(low: float, high: float) -> tuple[float, float]:
    """The data with 0, so that heights can be compared."""
    low, high = min(low, 0.0), max(high, 0.0)
    return (low * 1.05, high * 1.05) if high > low else (low, low + 1)


def around(low: float, high: float) -> tuple[float, float]:
    """The data with a margin."""
    margin = 0.1 * (high - low) or max(0.01 * abs(high), 1e-6)
    return low - margin, high + margin


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` of the points in even steps, the last one among them."""
    step = -(-len(points) // POINTS)
    return points if step == 1 else [*points[:-1:step], points[-1]]


def finite_points(curves: Sequence[dict[str, float]], key: str) -> list[tuple[float, float]]:
    """The points (epoch, value) of every epoch that has a finite value."""
    numbered = [(epoch.get("epoch", float(i)), epoch.get(key, math.nan)) for i, epoch in enumerate(curves)]
    return [(epoch, value) for epoch, value in numbered if math.isfinite(value)]
