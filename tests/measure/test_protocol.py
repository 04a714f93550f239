"""Statistics of hand-made series; timing with a clock that the test moves. No test looks at the wall clock."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.figures.candidate import Latency
from edgekd.measure.protocol import Series, Timing, bootstrap_interval, faster, interleave, measure


class FakeClock:
    """Nanoseconds that pass only where a timed call says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def takes(self, milliseconds: float) -> None:
        self.now_ns += round(milliseconds * 1e6)


def test_percentiles_are_those_of_all_blocks_together() -> None:
    series = Series.of(range(1, 35), range(35, 68), range(68, 102))

    assert (series.n, series.p50_ms, series.p90_ms) == (101, 51.0, 91.0)


def test_p99_needs_a_thousand_samples() -> None:
    assert Series.of(range(333), range(333), range(333)).p99_ms is None
    assert Series.of(range(334), range(334), range(334)).p99_ms == pytest.approx(330, abs=1)


@pytest.mark.parametrize(("last_block", "stable"), [(1.04, True), (1.06, False), (0.9, False)])
def test_stable_means_block_medians_within_five_percent(last_block: float, stable: bool) -> None:
    assert Series.of([1.0] * 5, [1.0] * 5, [last_block] * 5).stable is stable


def test_a_drifting_machine_is_unstable_though_each_block_is_calm() -> None:
    assert not Series.of([1.00, 1.01], [1.05, 1.06], [1.10, 1.11]).stable


def test_outliers_move_p90_but_neither_median_nor_stability() -> None:
    block = [1.0] * 8 + [50.0] * 2
    series = Series.of(block, block, block)

    assert series.p50_ms == 1.0
    assert series.p90_ms == 50.0
    assert series.stable


def test_a_bimodal_series_has_an_interval_that_spans_both_modes() -> None:
    series = Series.of([1.0, 2.0] * 20, [1.0, 2.0] * 20, [1.0, 2.0] * 20)

    assert series.interval_ms == (1.0, 2.0)


def test_two_blocks_are_never_stable() -> None:
    assert not Series.of([1.0], [1.0]).stable


def test_a_constant_series_has_an_interval_of_no_width() -> None:
    assert Series.of([3.0] * 4, [3.0] * 4, [3.0] * 4).interval_ms == (3.0, 3.0)


def test_the_interval_is_the_same_every_time() -> None:
    blocks = tuple(np.random.default_rng(7).gamma(5, size=50) for _ in range(3))

    assert bootstrap_interval(blocks) == bootstrap_interval(blocks)


def test_the_interval_spans_blocks_that_disagree() -> None:
    """Each block's own samples agree to 1 %; a bootstrap of the pooled samples alone would give about 2.0."""
    rng = np.random.default_rng(0)
    low, high = bootstrap_interval([centre + rng.normal(0, 0.01, 500) for centre in (1.0, 2.0, 3.0)])

    assert low == pytest.approx(1.0, abs=0.05)
    assert high == pytest.approx(3.0, abs=0.05)


def test_the_interval_of_the_median_covers_the_truth_about_as_often_as_it_says() -> None:
    """60 series of exponential samples, whose median is ln 2: 95 % intervals cover it in at least 54."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        low, high = bootstrap_interval([rng.exponential(size=20) for _ in range(5)], resamples=100)
        covered += low <= np.log(2) <= high

    assert covered >= 54


def test_a_series_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Series.of([1.0], [])


def test_faster_names_the_clear_winner() -> None:
    fast, slow = Series.of([1.0, 1.01], [1.0, 1.02], [1.01, 1.0]), Series.of([2.0, 2.1], [2.1, 2.0], [2.0, 2.0])

    assert faster(fast, slow) == "a"
    assert faster(slow, fast) == "b"


def test_faster_refuses_a_difference_within_the_noise() -> None:
    a = Series.of([1.0] * 3, [1.1] * 3, [1.0] * 3)
    b = Series.of([1.05] * 3, [1.15] * 3, [1.05] * 3)

    assert faster(a, b) == "unstable"


def test_equal_series_have_no_winner() -> None:
    series = Series.of([1.0, 1.1], [1.0, 1.1], [1.0, 1.1])

    assert faster(series, series) == "unstable"


def test_a_large_difference_is_a_verdict_on_a_restless_machine() -> None:
    """The medians of the blocks differ by 10 %, but one is four times the other in every block."""
    a = Series.of([1.0] * 3, [1.1] * 3, [1.0] * 3)
    b = Series.of([4.0] * 3, [4.3] * 3, [4.0] * 3)

    assert not a.stable
    assert faster(a, b) == "a"


def test_the_verdict_on_the_report_s_figures_is_the_verdict_on_the_series() -> None:
    a, b = Series.of([1.0] * 3, [1.0] * 3, [1.0] * 3), Series.of([2.0] * 3, [2.0] * 3, [2.0] * 3)

    def figure(series: Series) -> Latency:
        return series.latency(threads=1, machine="m", runtime="r")

    assert faster(figure(a), figure(b)) == "a"
    assert faster(figure(b), figure(a)) == "b"


def test_series_of_different_block_counts_are_not_compared() -> None:
    with pytest.raises(ValueError, match="3 and 4 blocks"):
        faster(Series.of([1.0], [1.0], [1.0]), Series.of([1.0], [1.0], [1.0], [1.0]))


def test_warm_up_calls_are_not_in_the_series() -> None:
    clock = FakeClock()
    costs = iter([100.0] * 10)

    def call() -> None:
        clock.takes(next(costs, 1.0))

    series = measure(call, Timing(warmup_s=1.0, min_block_s=0.01, min_n=3), clock_ns=clock)

    assert set(series.samples_ms) == {1.0}


def test_a_block_lasts_its_time_and_takes_its_samples() -> None:
    clock = FakeClock()

    long = measure(lambda: clock.takes(2.0), Timing(warmup_s=0, min_block_s=0.02, min_n=3), clock_ns=clock)
    many = measure(lambda: clock.takes(2.0), Timing(warmup_s=0, min_block_s=0.002, min_n=30), clock_ns=clock)

    assert [block.size for block in long.blocks_ms] == [10, 10, 10]
    assert [block.size for block in many.blocks_ms] == [10, 10, 10]


def test_interleaved_candidates_take_turns_and_change_places() -> None:
    clock = FakeClock()
    calls: list[str] = []

    def candidate(name: str, cost_ms: float) -> None:
        calls.append(name)
        clock.takes(cost_ms)

    series = interleave(
        {"a": lambda: candidate("a", 1.0), "b": lambda: candidate("b", 3.0)},
        Timing(warmup_s=0, blocks=4, min_block_s=0, min_n=4),
        clock_ns=clock,
    )

    turns = "".join(calls)[2:]  # after one warm-up call of each; then one settling and one timed call a block
    assert turns == "aabb" + "bbaa" + "aabb" + "bbaa"
    assert (series["a"].p50_ms, series["b"].p50_ms) == (1.0, 3.0)


def test_fewer_than_three_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks = 2"):
        Timing(blocks=2)


def test_latency_carries_its_conditions() -> None:
    latency = Series.of([1.0], [1.0], [2.0]).latency(threads=2, machine="m", runtime="r", batch_size=4, origin="device")

    assert (latency.p50_ms, latency.n, latency.stable) == (1.0, 3, False)
    assert (latency.threads, latency.batch_size, latency.origin) == (2, 4, "device")
    assert latency.block_medians_ms == (1.0, 1.0, 2.0)
