"""The charts of a training: axes that say where they begin, with room for their numbers."""

from __future__ import annotations

import pytest

from edgekd.figures.figures import Report
from edgekd.report.curves import charts, temperatures
from edgekd.report.html import render


def test_the_numbers_of_an_axis_have_room_at_its_left() -> None:
    """A digit takes about 7 pixels: '0.0006' was cut off where every chart had the same margin."""
    (rate,) = charts([{"epoch": 1.0, "lr": 0.0007}, {"epoch": 2.0, "lr": 0.0001}], "top-1")
    longest = max(len(text) for _, text in rate.y.ticks)
    assert longest == len("0.0006") and rate.x.start_px >= 7 * longest


def test_losses_and_rates_begin_at_0_and_a_share_spans_its_whole_range() -> None:
    curves = [{"epoch": float(i), "loss": 3.0 - i, "lr": 0.1 * i, "holdout": 80.0 + i} for i in (1, 2)]
    holdout, loss, rate = charts(curves, "top-1, %", "%")
    assert (holdout.y.low, holdout.y.high) == (0, 100)
    assert loss.y.low == rate.y.low == 0 and loss.y.high == pytest.approx(2.1)  # with 5 % above the largest


def test_differences_between_temperatures_are_seen(report: Report) -> None:
    (chart,) = temperatures(report.model_copy(update={"temperature_curve": ((1.0, 90.0), (4.0, 91.0))}), "top-1, %")
    assert (chart.y.low, chart.y.high) == (pytest.approx(89.9), pytest.approx(91.1))


def test_a_training_of_one_epoch_is_a_dot(report: Report) -> None:
    (first, _) = report.curves
    (holdout, *_) = charts([first], "top-1, %", "%")
    assert holdout.lines[0].dot == (holdout.x(1), holdout.y(40))
    assert '<circle class="f0"' in render(report.model_copy(update={"curves": (first,)}))
    assert '<circle class="f0"' not in render(report)


def test_a_long_training_is_drawn_by_some_points_with_its_last() -> None:
    curves = [{"epoch": float(i), "loss": float(i)} for i in range(1, 10_001)]
    (loss,) = charts(curves, "top-1")
    points = loss.lines[0].points.split()
    assert len(points) <= 401 and points[-1] == f"{loss.x(10_000)},{loss.y(10_000)}"
    assert loss.lines[0].last == "1e+04 at the end"
