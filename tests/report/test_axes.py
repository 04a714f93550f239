"""An axis has round ticks, and their texts have room."""

from __future__ import annotations

import pytest

from edgekd.report.axes import Axis, linear_ticks, log_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (89.9, 95.2, [90, 92, 94]),
        (0.0, 0.01, [0, 0.002, 0.004, 0.006, 0.008, 0.01]),
    ],
)
def test_linear_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert linear_ticks(low, high) == pytest.approx(ticks)


def test_log_ticks_are_one_two_and_five() -> None:
    assert log_ticks(0.3, 6) == pytest.approx([0.5, 1, 2, 5])


def test_a_logarithmic_axis_maps_factors_to_distances() -> None:
    axis = Axis(1, 100, 0, 200, logarithmic=True)

    assert (axis(1), axis(10), axis(100)) == (0, 100, 200)


def test_the_texts_of_a_logarithmic_axis_do_not_touch() -> None:
    """Three decades on 120 pixels: 1, 2 and 5 times a power of ten would lie 12 pixels apart."""
    ticks = Axis(0.01, 10, 0, 120, logarithmic=True).ticks
    assert ticks == [(0, "0.01"), (40, "0.1"), (80, "1"), (120, "10")]
    ten = Axis(1, 1e10, 0, 100, logarithmic=True).ticks
    assert [text for _, text in ten] == ["1", "10000", "1e+08"]


def test_a_short_logarithmic_axis_keeps_its_ticks() -> None:
    assert [text for _, text in Axis(2, 8, 0, 60, logarithmic=True).ticks] == ["2", "5"]
