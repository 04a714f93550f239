"""The choice: the fastest candidate within the budget, and the reasons of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.accuracy import wilson_interval
from edgekd.choose import Contender, budget_checks, choose
from edgekd.recipe import Budget
from edgekd.report.model import Accuracy, Latency

TEACHER = Accuracy(top1=90.0, low=89.0, high=91.0, n=1000, split="test", runtime="torch")


def contender(name: str, top1: float, medians: tuple[float, ...], size_mb: float = 1.0, **about: Any) -> Contender:
    middle = sorted(medians)[len(medians) // 2]
    latency = Latency(
        p50_ms=middle, p90_ms=middle, low_ms=min(medians), high_ms=max(medians), n=300, block_medians_ms=medians,
        stable=True, threads=1, machine="m", runtime="r",
    )  # fmt: skip
    accuracy = Accuracy(top1=top1, low=top1 - 1, high=top1 + 1, n=1000, split="test", runtime="r")
    return Contender(
        name=name, path=Path(f"{name}.onnx"), size_mb=size_mb, accuracy=accuracy, latency=latency, peak_memory_mb=None,
        order_ms=about.get("order_ms", middle), order_origin=about.get("origin", "host"), fault=about.get("fault", ""),
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
    assert name == "fp32" and reasons["int8"] == "1.50 points under fp32; max_drop_from_fp32 is at most 1"


def test_a_drop_of_exactly_the_budget_holds() -> None:
    assert shipped(FP32, contender("int8", 85.7, (0.5, 0.51, 0.52)), max_drop_from_fp32=0.3)[0] == "int8"


def test_int8_that_is_slower_than_fp32_is_not_shipped() -> None:
    assert shipped(FP32, contender("int8", 86.0, (2.0, 2.01, 2.02)))[0] == "fp32"


def test_where_noise_could_decide_the_smaller_file_ships() -> None:
    noisy = contender("int8", 86.0, (0.9, 1.2, 1.5), size_mb=1.0)
    name, reasons = shipped(FP32, noisy)
    assert name == "int8" and "no clear difference" in reasons["fp32"]


def test_an_estimates_order_is_taken_where_the_runtime_is_not_here() -> None:
    slow_here = contender("int8", 86.0, (2.0, 2.01, 2.02), order_ms=0.1, origin="estimate")
    fp32 = contender("fp32", 86.0, (1.0, 1.0, 1.0), order_ms=0.3, origin="estimate")
    name, reasons = shipped(fp32, slow_here)
    assert name == "int8" and "estimate" in reasons["fp32"]


def test_where_no_candidate_keeps_the_budget_the_most_accurate_ships_and_the_check_is_missed() -> None:
    candidates = choose((FP32, contender("int8", 85.9, (0.5, 0.5, 0.5))), Budget(min_accuracy=95), TEACHER)
    (chosen,) = [candidate for candidate in candidates if candidate.shipped]
    assert chosen.name == "fp32" and "no candidate keeps the budget" in chosen.reason
    checks = {
        check.name: check.verdict for check in budget_checks(chosen, Budget(min_accuracy=95), TEACHER, FP32.accuracy)
    }
    assert checks["min_accuracy"] == "missed"


def test_a_latency_budget_is_not_measured_without_the_device() -> None:
    (chosen,) = choose((FP32,), Budget(), TEACHER)
    checks = {check.name: check for check in budget_checks(chosen, Budget(p90_latency_ms=3), TEACHER, FP32.accuracy)}
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


def test_estimates_that_are_close_are_no_order_so_the_smaller_file_ships() -> None:
    fast = contender("fp16", 86.0, (1.0, 1.0, 1.0), 2.0, order_ms=0.0100, origin="estimate")
    small = contender("int8", 86.0, (1.0, 1.0, 1.0), 1.0, order_ms=0.0105, origin="estimate")
    name, reasons = shipped(FP32, fast, small)
    assert name == "int8" and "what the estimate leaves out could decide" in reasons["fp16"]
    slow = contender("int8", 86.0, (1.0, 1.0, 1.0), 1.0, order_ms=0.0115, origin="estimate")
    assert shipped(FP32, fast, slow)[0] == "fp16"
