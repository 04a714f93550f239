"""What devices' figures make of a report: who decides a budget, what stays of an earlier measurement, what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.figures.candidate import Latency, Origin, Score
from edgekd.figures.devices import deciding, decisive, with_device
from edgekd.figures.figures import DeviceState, OnDevice, Report, Window
from edgekd.measure.protocol import Series
from edgekd.report.on_device import further

ACCURACY = Score(value=90.0, low=89.0, high=91.0, n=200, split="test", runtime="r", origin="device")


def latency(ms: float, *, batch: int = 1, threads: int = 1, transfers: Any = "none") -> Latency:
    taken = Series.of(*([ms] * 9 for _ in range(3))).latency(
        threads=threads, machine="m", runtime="r", batch_size=batch
    )
    return taken.model_copy(update={"transfers": transfers})


def measured(name: str, *latencies: Latency, origin: Origin = "device", **changes: Any) -> OnDevice:
    made = OnDevice(
        device=name, origin=origin, created="2026-11-26T00:00:00+00:00", machine="m", architecture="aarch64", system="s", runtime="r",
        model_sha256="1", is_target=True, golden_ok=True, golden="", latencies=latencies, before=DeviceState(), after=DeviceState(),
    )  # fmt: skip
    return made.model_copy(update=changes)


def budget(report: Report, *devices: OnDevice, most: float = 1.5) -> tuple[str, str]:
    for device in devices:
        report = with_device(report, device, most)
    (check,) = [check for check in report.checks if check.name == "p90_latency_ms"]
    return check.verdict, check.found


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_fewest_threads_decide_in_whatever_order_they_were_given(report: Report, order: tuple[int, int]) -> None:
    """1 ms on one thread, 2 ms on two: as on a small model, where threads only wait for each other."""
    verdict, found = budget(report, measured("pi", *(latency(float(n), threads=n) for n in order)))

    assert verdict == "pass" and found == "1.00 ms on pi, batch 1, 1 thread"


def test_a_series_that_wobbles_takes_no_verdict_from_another(report: Report) -> None:
    wobbling = latency(2.0, threads=2).model_copy(update={"unsteady": ("batch 1, 2 threads: it drifts",)})
    device = measured("pi", latency(1.0), wobbling, unstable=("batch 1, 2 threads: it drifts",))

    assert budget(report, device)[0] == "pass"
    assert device.against(wobbling) == ["batch 1, 2 threads: it drifts"]
    clock = device.model_copy(update={"unstable": (*device.unstable, "the clock changed")})
    assert budget(report, clock)[0] == "unstable" and clock.against(device.latencies[0]) == ["the clock changed"]


def test_a_device_that_measured_other_batches_leaves_the_budget_to_no_host(report: Report) -> None:
    verdict, found = budget(
        report, measured("local", latency(1.0), origin="host"), measured("pi", latency(1.0, batch=8))
    )
    assert verdict == "not measured" and "pi was measured with other batches" in found


def test_copies_count() -> None:
    both = measured("nano", latency(1.0, transfers="excluded"), latency(2.0, transfers="included"))
    first = decisive(both)
    assert first is not None and first.p50_ms == 2.0


@pytest.mark.parametrize(
    ("device", "found"),
    [
        (measured("pi", latency(1.0, batch=8)), "needs the device: pi was measured with other batches than 1"),
        (measured("pi", golden_ok=False), "needs the device: pi does not give the stored outputs"),
        (measured("pi", latency(1.0), is_target=False), "needs the device: pi is of another kind than the target"),
    ],
)
def test_what_cannot_decide_says_why(report: Report, device: OnDevice, found: str) -> None:
    assert budget(report, device) == ("not measured", found)


def test_this_machine_decides_only_where_no_device_did(report: Report) -> None:
    here, there = measured("local", latency(9.0), origin="host"), measured("pi", latency(1.0))

    assert budget(report, here)[0] == "missed"
    assert budget(report, here, there) == ("pass", "1.00 ms on pi, batch 1, 1 thread")
    assert budget(report, there, here)[0] == "pass" and [d.device for d, _ in deciding((here, there))] == ["pi"]


def test_the_slowest_of_several_devices_decides(report: Report) -> None:
    assert budget(report, measured("a", latency(1.0)), measured("b", latency(2.0)))[1].startswith("2.00 ms on b")


def test_accuracy_of_the_same_model_stays_and_says_that_it_is_older(report: Report) -> None:
    window = Window(at_s=20.0, n=9, p50_ms=1.0)
    first = measured("pi", latency(1.0), score=ACCURACY, sustained=(window,))
    second = measured("pi", latency(1.1), created="2026-11-27T00:00:00+00:00")
    third = measured("pi", latency(1.2), created="2026-11-28T00:00:00+00:00")
    for device in (first, second, third):
        report = with_device(report, device, None)

    (found,) = report.devices
    assert found.score == ACCURACY and found.sustained == (window,) and found.created == third.created
    told = list(further(found))
    assert told[0] == "top-1 90.00 ±1.00 % of 200 test samples (measured earlier, 2026-11-26T00:00:00+00:00)"


@pytest.mark.parametrize(
    "change", [{"model_sha256": "2"}, {"runtime": "another"}, {"golden_ok": False, "latencies": ()}]
)
def test_accuracy_of_another_model_or_of_wrong_outputs_does_not_stay(report: Report, change: dict[str, Any]) -> None:
    report = with_device(report, measured("pi", latency(1.0), score=ACCURACY), None)

    (found,) = with_device(report, measured("pi", latency(1.0), **change), None).devices
    assert found.score is None and not found.measured_earlier
