"""The ranges of the candidates' estimates on one axis, and in a few words."""

from __future__ import annotations

import pytest

from edgekd.figures.candidate import Estimate
from edgekd.figures.figures import Report
from edgekd.report.html import render
from edgekd.report.ranges import in_short, ranges


def estimate(low_ms: float, high_ms: float | None, starts_left_out: int = 0) -> Estimate:
    return Estimate(
        device="d", basis="b", low_ms=low_ms, high_ms=high_ms, kernels=(), peaks_gops={}, bandwidth_gbs=1.0,
        starts_left_out=starts_left_out,
    )  # fmt: skip


def test_each_estimate_is_drawn_from_its_low_to_its_high_end(report: Report) -> None:
    found = {"fp32": estimate(0.5, None), "int8": estimate(0.1, 2.0)}
    candidates = tuple(c.model_copy(update={"estimate": found[c.name]}) for c in report.candidates)
    estimated = report.model_copy(update={"candidates": candidates})
    drawn = ranges(estimated)
    assert drawn is not None
    fp32, int8 = drawn.rows
    assert (int8.low, int8.high, int8.open_end) == (drawn.axis(0.1), drawn.axis(2.0), False)
    assert (fp32.low, fp32.high, fp32.open_end) == (drawn.axis(0.5), drawn.axis.end_px, True)
    page = render(estimated)
    assert "fp32: at least 0.500 ms (estimate); int8: 0.100 to 2.00 ms (estimate)" in page


def test_without_an_estimate_nothing_is_drawn(report: Report) -> None:
    assert ranges(report) is None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (estimate(0.1, 2.0), "0.100–2.00"),
        (estimate(0.1, None), "at least 0.100"),
        (estimate(0.1, None, starts_left_out=3), "more than 0.100"),
        (estimate(0.1, 2.0, starts_left_out=3), "at most 2.00"),
    ],
)
def test_a_cell_tells_the_ends_that_hold(given: Estimate, text: str) -> None:
    """No device reaches a low end without the start of its kernels."""
    assert in_short(given) == text
