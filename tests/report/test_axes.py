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
