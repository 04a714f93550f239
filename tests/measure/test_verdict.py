"""When a measurement is no verdict: hand-made series and states with known answers."""

from __future__ import annotations

import pytest

from edgekd.figures.figures import DeviceState
from edgekd.measure.protocol import Series
from edgekd.measure.verdict import refusals

STEADY = Series.of([1.0] * 20, [1.0] * 20, [1.0] * 20)
MODES = {"15W": 0, "MAXN_SUPER": 2}


def state(mhz: float = 1500.0, **changes: object) -> DeviceState:
    return DeviceState.model_validate({"clocks_mhz": {"cpu0": mhz, "cpu4": 300.0}, **changes})


def judge(series: Series = STEADY, states: list[DeviceState] | None = None, modes: dict[str, int] | None = None) -> str:
    return "\n".join(refusals([("batch 1", series)], states or [state()] * 6, ["cpu0", "cpu4"], modes or {}))


def test_a_steady_series_is_a_verdict() -> None:
    assert judge() == ""


def test_blocks_that_drift_by_more_than_five_percent_are_none() -> None:
    """Medians 1.00, 1.03, 1.06: 6 % from the least to the most, always upwards."""
    assert "6.0 % (slower and slower" in judge(Series.of([1.0] * 9, [1.03] * 9, [1.06] * 9))


def test_five_percent_are_still_a_verdict() -> None:
    assert judge(Series.of([1.0] * 9, [1.04] * 9, [1.0] * 9)) == ""


def test_blocks_that_go_up_and_down_are_called_so() -> None:
    assert "(up and down" in judge(Series.of([1.0] * 9, [1.2] * 9, [1.0] * 9))


def test_two_speeds_in_every_block_are_no_verdict() -> None:
    """Half of the samples at 1, half at 2 ms: every block has the median 1.5, and the true one may be either."""
    bimodal = Series.of([1.0, 2.0] * 20, [1.0, 2.0] * 20, [1.0, 2.0] * 20)

    assert bimodal.stable
    assert "between 1 and 2 ms" in judge(bimodal)


def test_outliers_move_neither_the_median_nor_the_verdict() -> None:
    """One sample in twenty takes a hundred times as long."""
    outliers = Series.of(*[[1.0] * 19 + [100.0]] * 3)

    assert judge(outliers) == "" and outliers.p50_ms == 1.0 and outliers.p90_ms == 1.0


def test_a_clock_that_fell_by_more_than_five_percent_is_no_verdict() -> None:
    """The states after the blocks: 1500, 1500, 1350 MHz. What ran before and after the whole is rest, and free to be slow."""
    states = [state(600), state(1500), state(1500), state(1500), state(1350), state(600)]

    text = judge(states=states)

    assert "between 1350 and 1500 MHz" in text and "cpupower frequency-set -g performance" in text
    assert "sudo jetson_clocks" in judge(states=states, modes=MODES)


def test_a_core_that_sleeps_is_no_change_of_the_clock() -> None:
    """cpu4 may run the model too, but the fastest of them is what ran it."""
    slow, fast = state(), DeviceState(clocks_mhz={"cpu0": 300.0, "cpu4": 1500.0})

    assert judge(states=[slow, slow, fast, slow, fast, slow]) == ""


def test_another_power_mode_afterwards_is_no_verdict() -> None:
    states = [state(power_mode="15W")] * 5 + [state(power_mode="MAXN_SUPER")]

    assert "from 15W to MAXN_SUPER meanwhile: set it (`sudo nvpmodel -m 0`)" in judge(states=states, modes=MODES)


def test_counted_throttling_is_no_verdict() -> None:
    before, after = (
        state(throttle_counts={"oc1_event_cnt": 4, "oc2_event_cnt": 1}),
        state(throttle_counts={"oc1_event_cnt": 7, "oc2_event_cnt": 1}),
    )

    assert "throttled itself (oc1_event_cnt +3)" in judge(states=[before] * 5 + [after])
    assert judge(states=[before] * 6) == ""


def test_two_blocks_tell_nothing_about_steadiness() -> None:
    assert "2 blocks; 3 are needed" in judge(Series.of([1.0] * 9, [1.0] * 9))


@pytest.mark.parametrize("clocks", [{}, {"gpu": 900.0}])
def test_a_clock_that_cannot_be_read_is_not_held_against_it(clocks: dict[str, float]) -> None:
    assert judge(states=[DeviceState(clocks_mhz=clocks)] * 6) == ""
