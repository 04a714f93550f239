"""The choice: the fastest candidate within the budget, and the reasons of the others."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.check.choose import Contender, budget_checks, choose, misses
from edgekd.figures.candidate import Estimate, Latency, Score
from edgekd.figures.intervals import wilson_interval
from edgekd.recipe import Budget
from edgekd.tasks.classify import TOP1, judged

TEACHER = Score(value=90.0, low=89.0, high=91.0, n=1000, split="test", runtime="torch")


def contender(name: str, top1: float, medians: tuple[float, ...], size_mb: float = 1.0, **about: Any) -> Contender:
    middle = sorted(medians)[len(medians) // 2]
    found = about.get("estimate")
    origin = about.get("origin", "estimate" if found else "host")
    latency = Latency(
        p50_ms=middle, p90_ms=middle, low_ms=min(medians), high_ms=max(medians), n=300, block_medians_ms=medians,
        stable=True, threads=1, machine="m", runtime="r",
    )  # fmt: skip
    accuracy = Score(value=top1, low=top1 - 1, high=top1 + 1, n=1000, split="test", runtime="r")
    return Contender(
        name=name, path=Path(f"{name}.onnx"), size_mb=size_mb, score=accuracy, latency=latency, peak_memory_mb=None,
        order_ms=found.low_ms if origin == "estimate" and found else middle, order_origin=origin, fault=about.get("fault", ""),
        estimate=found, same_runtime=about.get("same_runtime", False),
    )  # fmt: skip


def estimated(low: float, high: float | None, without: tuple[str, ...] = (), starts: int = 0) -> Estimate:
    return Estimate(
        device="d", basis="b", low_ms=low, high_ms=high, kernels=(), peaks_gops={}, bandwidth_gbs=1.0, without_peak=without,
        starts_left_out=starts,
    )  # fmt: skip


FP32 = contender("fp32", 86.0, (1.0, 1.01, 1.02), 4.0)


def shipped(*contenders: Contender, **budget: float) -> tuple[str, dict[str, str]]:
    found = choose(contenders, Budget(**{"max_drop_from_fp32": 1.0, **budget}), TEACHER)
    (chosen,) = [candidate.name for candidate in found if candidate.shipped]
    return chosen, {candidate.name: candidate.reason for candidate in found}


def test_the_fastest_within_the_budget_ships() -> None:
    name, reasons = shipped(FP32, contender("int8", 85.5, (0.5, 0.51, 0.52)))
    assert name == "int8"
    assert reasons["fp32"] == "slower than int8: 1.01 ms against 0.51 ms (host)"


def test_a_fast_candidate_beyond_the_accuracy_budget_loses_with_the_figures() -> None:
    name, reasons = shipped(FP32, contender("int8", 84.5, (0.5, 0.51, 0.52)))
    assert name == "fp32" and reasons["int8"] == "1.50 points worse than fp32; max_drop_from_fp32 is at most 1"


def test_a_drop_of_exactly_the_budget_holds() -> None:
    assert shipped(FP32, contender("int8", 85.7, (0.5, 0.51, 0.52)), max_drop_from_fp32=0.3)[0] == "int8"


def test_int8_that_is_slower_than_fp32_is_not_shipped() -> None:
    assert shipped(FP32, contender("int8", 86.0, (2.0, 2.01, 2.02)))[0] == "fp32"


def test_where_noise_could_decide_the_smaller_file_ships() -> None:
    noisy = contender("int8", 86.0, (0.9, 1.2, 1.5), size_mb=1.0)
    name, reasons = shipped(FP32, noisy)
    assert name == "int8" and "no clear difference" in reasons["fp32"]


def test_an_estimates_order_is_taken_where_its_ranges_are_apart_and_leave_nothing_out() -> None:
    int8 = contender("int8", 86.0, (2.0, 2.01, 2.02), estimate=estimated(0.1, 0.2))
    fp32 = contender("fp32", 86.0, (1.0, 1.0, 1.0), 0.5, estimate=estimated(0.3, 0.6))
    name, reasons = shipped(fp32, int8)
    assert name == "int8" and reasons["fp32"] == "slower than int8: 0.3 ms against 0.1 ms (estimate)"
    assert reasons["int8"] == "the fastest that keeps the budget (by estimate)"


@pytest.mark.parametrize(
    ("fast", "slow", "why"),
    [
        (dict(low=0.1, high=0.4), dict(low=0.3, high=0.6), "the estimates of fp32 and int8 overlap"),
        (dict(low=0.1, high=None, without=("int8",)), dict(low=0.3, high=0.6), "the profile states no peak for int8"),
        (dict(low=0.1, high=0.2, starts=18), dict(low=0.3, high=0.6, starts=18), "no launch time of a kernel"),
    ],
)
def test_an_order_that_estimates_cannot_tell_is_unknown_and_said(fast: Any, slow: Any, why: str) -> None:
    """int8 has the smaller low end, and the larger file: it is not taken for the faster one."""
    contenders = (
        contender("fp32", 86.0, (1.0,) * 3, 0.5, estimate=estimated(**slow)),
        contender("int8", 86.0, (1.0,) * 3, 1.0, estimate=estimated(**fast)),
    )
    name, reasons = shipped(*contenders)
    assert name == "fp32" and "fastest" not in " ".join(reasons.values())
    assert (
        reasons["fp32"].startswith("keeps the budget; the smallest, 0.500 MB; the order in time is unknown")
        and why in reasons["fp32"]
    )
    found = choose(contenders, Budget(), TEACHER)
    assert all((candidate.order_ms, candidate.order_origin) == (None, "not measured") for candidate in found)
    (check,) = [
        c for c in budget_checks(contenders, name, Budget(), TEACHER) if c.name == "order of the candidates in time"
    ]
    assert check.verdict == "not measured" and why in check.found


def test_where_the_order_is_unknown_accuracy_goes_before_size_and_size_before_this_machine() -> None:
    unknown = estimated(0.1, None, without=("fp32",))
    accurate = contender("fp32", 90.0, (3.0,) * 3, 4.0, estimate=unknown, same_runtime=True)
    small = contender("int8", 86.0, (2.0,) * 3, 1.0, estimate=unknown, same_runtime=True)
    quick = contender("fp16", 86.0, (1.0,) * 3, 2.0, estimate=unknown, same_runtime=True)
    name, reasons = shipped(accurate, small, quick, max_drop_from_fp32=10.0)
    assert name == "fp32" and reasons["int8"] == "less accurate than fp32: 86.00 % against 90.00 %"

    as_accurate = replace(accurate, score=small.score)
    name, reasons = shipped(as_accurate, small, quick)
    assert name == "int8" and reasons["fp16"].startswith("larger than int8, 2.000 MB against 1.000 MB")

    as_small = replace(quick, size_mb=1.01)
    name, reasons = shipped(as_accurate, small, as_small)
    assert (
        name == "fp16"
        and reasons["int8"] == "slower than fp16 on this machine in the same runtime: 2 ms against 1 ms (host)"
    )
    assert "the fastest on this machine in the same runtime (host)" in reasons["fp16"]


def test_an_estimate_that_this_machine_contradicts_in_the_same_runtime_orders_nothing() -> None:
    int8 = contender("int8", 86.0, (2.0,) * 3, 1.0, estimate=estimated(0.1, 0.2), same_runtime=True)
    fp32 = contender("fp32", 86.0, (1.0,) * 3, 1.0, estimate=estimated(0.3, 0.6), same_runtime=True)
    name, reasons = shipped(fp32, int8)
    assert name == "fp32" and "the estimate says int8, this machine in the same runtime fp32" in reasons["fp32"]
    assert shipped(replace(fp32, same_runtime=False), replace(int8, same_runtime=False))[0] == "int8"


def test_accuracies_are_compared_on_the_same_samples() -> None:
    """Ten samples more are right and none less of 2000: clear side by side, though the intervals overlap."""
    right = np.arange(2000) >= 300
    fp32 = replace(contender("fp32", 85.0, (1.0,) * 3, 4.0), judged=judged(right), metric=TOP1)
    better = replace(contender("fp16", 85.5, (1.0,) * 3, 4.1), judged=judged(np.arange(2000) >= 290), metric=TOP1)
    assert better.score.low < fp32.score.high
    name, reasons = shipped(fp32, better)
    assert name == "fp16" and "less accurate than fp16" in reasons["fp32"]
    as_good = replace(better, judged=judged(np.roll(right, 50)))
    assert shipped(fp32, as_good)[0] == "fp32"


def test_of_candidates_that_all_miss_the_one_that_misses_fewest_is_taken_and_not_to_ship() -> None:
    """Two of the same accuracy: one keeps the size. It was "the most accurate" that shipped, the larger one."""
    budget = Budget(min_accuracy=100, size_mb=0.05)
    fp32 = contender("fp32", 27.3, (1.0,) * 3, 0.08)
    fp16 = contender("fp16", 27.3, (1.5,) * 3, 0.04)
    found = {candidate.name: candidate for candidate in choose((fp32, fp16), budget, None)}
    assert found["fp16"].shipped
    assert found["fp16"].reason == (
        "NOT TO SHIP: misses the fewest budgets, and the least: 27.30 %, min_accuracy is at least 100"
    )
    assert found["fp32"].reason.startswith("misses 2 budgets, fp16 1: 27.30 %, min_accuracy is at least 100; 0.080 MB")


def test_of_as_many_misses_the_smallest_counts_points_as_hundredths_and_sizes_as_shares() -> None:
    """Two points under 88 are 0.02, 1.01 MB for 1 MB are 0.01."""
    budget = {"min_accuracy": 88.0, "size_mb": 1.0, "max_drop_from_fp32": 50.0}
    inaccurate, large = contender("int8", 86.0, (1.0,) * 3, 0.5), contender("fp32", 89.0, (1.0,) * 3, 1.01)
    assert shipped(inaccurate, large, **budget)[0] == "fp32"
    assert shipped(inaccurate, replace(large, size_mb=1.03), **budget)[0] == "int8"


@pytest.mark.parametrize("seed", range(300))
def test_no_candidate_ships_that_another_dominates(seed: int) -> None:
    """Random candidates and budgets: none of the others is as good in all figures and in the misses, and better in one."""
    rng = random.Random(seed)
    origin = rng.choice(["host", "estimate", "device"])
    contenders = []
    for name in ("fp32", "fp16", "bf16", "int8")[: rng.randint(1, 4)]:
        base, spread = rng.choice([1.0, 1.1, 2.0]), rng.choice([0.0, 0.01, 0.6])
        medians = tuple(base + spread * rng.random() for _ in range(3))
        low = rng.choice([0.1, 0.2, 0.5])
        found = estimated(
            low, rng.choice([None, low * 1.5, low * 10]), without=rng.choice([(), ("fp32",)]), starts=rng.choice([0, 3])
        )
        contenders.append(
            contender(
                name,
                rng.choice([80.0, 80.2, 85.0, 90.0]),
                medians,
                rng.choice([1.0, 1.01, 2.0]),
                estimate=found,
                origin=origin,
                same_runtime=origin == "estimate" and seed % 2 == 0,
            )
        )
    about = {"min_accuracy": rng.choice([None, 85.0, 95.0]), "size_mb": rng.choice([None, 0.9, 1.005])}
    budget = Budget(max_drop_from_fp32=rng.choice([None, 0.1, 20.0]), **about)
    (chosen,) = [candidate.name for candidate in choose(contenders, budget, None) if candidate.shipped]

    missed = misses(contenders, budget, None)

    def figures(one: Contender) -> tuple[float, ...]:
        here = one.latency.p50_ms if one.same_runtime and one.latency else 0.0
        number, far = len(missed[one.name]), round(sum(limit.miss for limit in missed[one.name]), 6)
        return number, far, -one.score.value, one.size_mb, one.order_ms or 0.0, here

    of_chosen = next(figures(one) for one in contenders if one.name == chosen)
    for other in map(figures, contenders):
        assert other == of_chosen or any(a > b for a, b in zip(other, of_chosen, strict=True))
        assert other[:2] >= of_chosen[:2]


def test_where_no_candidate_keeps_the_budget_the_one_that_misses_least_is_taken_and_the_check_is_missed() -> None:
    candidates = choose((FP32, contender("int8", 85.9, (0.5, 0.5, 0.5))), Budget(min_accuracy=95), TEACHER)
    (chosen,) = [candidate for candidate in candidates if candidate.shipped]
    assert chosen.name == "fp32" and chosen.reason.startswith("NOT TO SHIP: misses the fewest budgets, and the least")
    checks = {check.name: check.verdict for check in budget_checks((FP32,), "fp32", Budget(min_accuracy=95), TEACHER)}
    assert checks["min_accuracy"] == "missed"


def test_a_latency_budget_is_not_measured_without_the_device() -> None:
    checks = {check.name: check for check in budget_checks((FP32,), "fp32", Budget(p90_latency_ms=3), TEACHER)}
    assert checks["p90_latency_ms"].verdict == "not measured"


def test_a_file_beyond_the_size_budget_loses() -> None:
    assert shipped(FP32, contender("int8", 86.0, (2.0, 2.0, 2.0)), size_mb=2.0)[0] == "int8"


def test_the_interval_is_wilsons() -> None:
    """Wilson (1927) for 90 of 100: 0.8256 to 0.9448 (tabulated)."""
    assert wilson_interval(90, 100) == pytest.approx((82.56, 94.48), abs=0.01)


def test_int8_that_answers_differently_than_what_was_trained_never_ships() -> None:
    broken = contender("int8", 88.0, (0.5, 0.51, 0.52), fault="only 90.00 % of its answers")
    name, reasons = shipped(FP32, broken)
    assert name == "fp32" and reasons["int8"] == "only 90.00 % of its answers"
    assert shipped(FP32, broken, min_accuracy=87.0)[0] == "fp32"  # nor where no other keeps the budget


def error(contender: Contender, value: float) -> Contender:
    """The same by a metric of which less is better."""
    score = Score(
        metric="error",
        unit="",
        better="lower",
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        n=100,
        split="test",
        runtime="r",
    )
    return replace(contender, score=score)


def test_where_less_is_better_the_smaller_value_is_taken_and_no_larger_one_dominates() -> None:
    unknown = {"estimate": estimated(1.0, 9.0), "origin": "estimate"}
    fp32 = error(contender("fp32", 0.0, (1.0,) * 3, 4.0, **unknown), 3.0)
    fp16 = error(contender("fp16", 0.0, (1.0,) * 3, 4.0, **unknown), 3.9)
    found = choose([fp32, fp16], Budget(max_drop_from_fp32=None), None)
    assert [c.name for c in found if c.shipped] == ["fp32"]
    worse = next(c.reason for c in found if c.name == "fp16")
    assert "3.90" in worse and "3.00" in worse


def test_where_less_is_better_a_larger_value_misses_the_limit_of_the_drop() -> None:
    fp32 = error(contender("fp32", 0.0, (1.0,) * 3, 4.0), 3.0)
    int8 = error(contender("int8", 0.0, (0.5,) * 3, 1.0), 3.6)
    missed = misses([fp32, int8], Budget(max_drop_from_fp32=0.5), None)
    assert not missed["fp32"] and missed["int8"][0].found.startswith("0.600 worse than fp32, 20 % of its error")
    assert not misses([fp32, error(int8, 2.0)], Budget(max_drop_from_fp32=0.5), None)["int8"]
    at_most = misses([fp32, int8], Budget(min_accuracy=3.2, max_drop_from_fp32=None), None)
    assert not at_most["fp32"] and at_most["int8"][0].limit == "at most 3.2"
