"""Should a bundle ship? The verdict of checks that are made by hand."""

from __future__ import annotations

import pytest

from edgekd.figures.candidate import Candidate, Check, Latency, Score
from edgekd.figures.figures import Report
from edgekd.figures.verdict import ORDER

ACCURATE = Check(name="min_accuracy", verdict="pass", found="90.41 %", limit="at least 90")
QUICK = Check(name="p90_latency_ms", verdict="pass", found="3.10 ms on nano", limit="at most 5", origin="device")
ON_DEVICE = Check(name="latency on nano", verdict="note", found="2.90 ms median", origin="device")
NOT_YET = Check(
    name="latency on the device",
    verdict="not measured",
    found="edgekd measure BUNDLE --device NAME",
    origin="not measured",
)
SLOW_BUDGET = Check(name="p90_latency_ms", verdict="not measured", found="needs the device", limit="at most 5")
UNSTEADY = QUICK.model_copy(update={"verdict": "unstable"})
IN_WHICH_ORDER = Check(name=ORDER, verdict="not measured", found="unknown: the estimates overlap")
MISSED = Check(name="size_mb", verdict="missed", found="0.310 MB", limit="at most 0.05")


def latency(p50_ms: float) -> Latency:
    return Latency(
        p50_ms=p50_ms, p90_ms=p50_ms, low_ms=0.98 * p50_ms, high_ms=1.02 * p50_ms, n=300,
        block_medians_ms=(p50_ms,) * 3, stable=True, threads=1, machine="m", runtime="onnxruntime 1.31.1 CPU",
    )  # fmt: skip


def report(*checks: Check, int8_ms: float = 1.0, runtime: str = "onnxruntime") -> Report:
    """fp32 takes 1 ms on this machine, and int8 is in the bundle."""
    score = Score(value=90.0, low=89.0, high=91.0, n=100, split="test", runtime="rt")
    fp32 = Candidate(name="fp32", file="model.fp32.onnx", size_mb=1, score=score, latency=latency(1.0), reason="lost")
    int8 = Candidate(
        name="int8", file="model.onnx", size_mb=0.3, score=score, latency=latency(int8_ms), shipped=True, reason="taken"
    )
    return Report(
        recipe="mine", target="box", target_title="Box", runtime=runtime, created="2026-11-29T00:00:00Z", seconds=1.0,
        machine="m", versions={}, classes=("a", "b"), student=score, student_parameters=1, candidates=(fp32, int8),
        checks=checks,
    )  # fmt: skip


def test_a_bundle_ships_only_with_both_budgets_kept_and_measured_on_the_device() -> None:
    verdict = report(ACCURATE, QUICK, ON_DEVICE).verdict

    assert verdict.answer == "SHIP" and not verdict.missing
    assert verdict.headline == "SHIP: int8 keeps the budgets of accuracy and of latency on the device"
    assert verdict.reasons == (
        "min_accuracy: 90.41 %, limit at least 90",
        "p90_latency_ms: 3.10 ms on nano, limit at most 5",
    )


def test_a_missed_check_is_not_to_ship_whatever_else_is_missing() -> None:
    verdict = report(MISSED, NOT_YET).verdict

    assert verdict.lines() == ["NOT TO SHIP: 1 check missed (size_mb)", "  size_mb: 0.310 MB, limit at most 0.05"]


@pytest.mark.parametrize(
    ("checks", "headline"),
    [
        ((), "no budget of accuracy or latency is set"),
        ((QUICK, ON_DEVICE), "no budget of accuracy is set"),
        ((ACCURATE, ON_DEVICE), "no budget of latency is set"),
        ((ACCURATE, SLOW_BUDGET, NOT_YET), "p90_latency_ms is not measured and latency on the device is not measured"),
        ((ACCURATE, UNSTEADY, ON_DEVICE), "p90_latency_ms is unstable"),
    ],
)
def test_what_is_missing_leaves_it_undecided(checks: tuple[Check, ...], headline: str) -> None:
    verdict = report(*checks).verdict

    assert (verdict.answer, verdict.headline) == ("NOT DECIDED", f"NOT DECIDED: {headline}")
    assert verdict.missing


def test_a_small_loss_from_fp32_alone_is_no_budget_of_accuracy() -> None:
    """It compares the student with itself: a student that learned nothing loses nothing by int8."""
    small_loss = Check(name="max_drop_from_fp32", verdict="pass", found="0.00 points under fp32", limit="at most 1")

    assert report(small_loss, QUICK, ON_DEVICE).verdict.answer == "NOT DECIDED"


def test_an_unknown_order_of_the_candidates_is_told_but_keeps_nothing_from_shipping() -> None:
    verdict = report(ACCURATE, QUICK, ON_DEVICE, IN_WHICH_ORDER).verdict

    assert verdict.answer == "SHIP" and f"{ORDER}: unknown: the estimates overlap" in verdict.reasons
    assert ORDER not in report(ACCURATE, NOT_YET, IN_WHICH_ORDER).verdict.headline


@pytest.mark.parametrize(
    ("int8_ms", "runtime", "told"),
    [(1.5, "onnxruntime", True), (1.03, "onnxruntime", False), (1.5, "tensorrt", False), (1.5, "", False)],
)
def test_int8_that_is_slower_here_is_told_where_this_machine_runs_the_target_s_runtime(
    int8_ms: float, runtime: str, told: bool
) -> None:
    """At 1.03 ms the intervals overlap; onnxruntime's time of a graph for TensorRT is no sign of the engine's."""
    headline = report(ACCURATE, NOT_YET, int8_ms=int8_ms, runtime=runtime).verdict.headline

    assert ("int8 was slower than fp32 on this machine" in headline) is told


def test_the_commands_name_the_bundle_s_folder() -> None:
    lines = report(ACCURATE, NOT_YET).verdict.lines("build/mine/box")

    assert lines[-1] == "  missing: latency on the device: edgekd measure build/mine/box --device NAME"


def test_this_machine_decides_where_it_was_named_as_the_device() -> None:
    here = QUICK.model_copy(update={"origin": "host"})
    assert report(ACCURATE, here).verdict.headline.endswith("of latency on this machine")


def test_a_device_that_was_not_steady_counts_no_longer_beside_a_steady_one_that_keeps_the_budget() -> None:
    shaky = Check(name="latency on here", verdict="unstable", found="0.2 ms; the blocks' medians differ")
    assert report(ACCURATE, QUICK, ON_DEVICE, shaky).verdict.answer == "SHIP"
    assert report(ACCURATE, UNSTEADY, shaky).verdict.answer == "NOT DECIDED"
