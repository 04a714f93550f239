"""ranges: the whole range of each candidate's estimate on one logarithmic axis; in_short: a range in a few words."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.figures.candidate import Estimate
from edgekd.figures.figures import Report
from edgekd.figures.words import milliseconds
from edgekd.report.axes import Axis
from edgekd.report.pareto import Place, estimated, x_axis

ROW = 34  # pixels
WIDTH, LEFT, RIGHT = 360, 52, 14


@dataclass(frozen=True)
class Range:
    """A candidate's range, in pixels. open_end: the estimate has no upper end."""

    name: str
    shipped: bool
    y: float
    low: float
    high: float
    open_end: bool
    words: str


@dataclass(frozen=True)
class Ranges:
    """The drawing of all ranges."""

    width: int
    height: int
    axis: Axis
    rows: list[Range]

    @property
    def described(self) -> str:
        """The drawing in words, for readers who do not see it."""
        return "; ".join(f"{row.name}: {row.words}" for row in self.rows)


def ranges(report: Report) -> Ranges | None:
    """The ranges of the candidates that have an estimate; None without any."""
    found = [(c.name, c.shipped, place) for c in report.candidates if (place := estimated(c.estimate)) is not None]
    if not found:
        return None
    axis = x_axis([place for _, _, place in found], LEFT, WIDTH - RIGHT)
    rows = [_row(i, name, shipped, place, axis) for i, (name, shipped, place) in enumerate(found)]
    return Ranges(WIDTH, ROW * len(rows) + 40, axis, rows)


def _row(number: int, name: str, shipped: bool, place: Place, axis: Axis) -> Range:
    high = axis.end_px if place.high is None else axis(place.high)
    return Range(name, shipped, ROW * number + 16, axis(place.low), high, place.high is None, place.words)


def in_short(estimate: Estimate) -> str:
    """The range in milliseconds, for a cell of a table. A low end without the kernels' launch time is left out."""
    low, high = milliseconds(estimate.low_ms), estimate.high_ms
    if high is None:
        return f"{'more than' if estimate.starts_left_out else 'at least'} {low}"
    return (
        f"at most {milliseconds(high)}"
        if estimate.starts_left_out or not estimate.low_ms
        else f"{low}–{milliseconds(high)}"
    )
