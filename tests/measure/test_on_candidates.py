"""The candidates of a build on the device that decides, and what its figures change in the choice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekd.api import build
from edgekd.bundle.golden import Golden
from edgekd.check.choose import Contender, choose
from edgekd.check.contenders import as_measured
from edgekd.check.package import with_earlier_devices
from edgekd.errors import DeviceError
from edgekd.figures.candidate import Score
from edgekd.figures.figures import DeviceState, OnDevice, Report
from edgekd.measure.on_candidates import check_device, measure_candidates
from edgekd.measure.on_device import Options
from edgekd.measure.protocol import Series
from edgekd.measure.side_by_side import measure_all
from edgekd.recipe import Budget, Recipe
from edgekd.target import load_target
from tests.builders.bundles import UINT8
from tests.builders.measuring import SHORT

HERE, ELSEWHERE = ("x86-cpu", "raspberry-pi-5") if os.uname().machine == "x86_64" else ("raspberry-pi-5", "x86-cpu")
ACCURACY = Score(value=90.0, low=89.0, high=91.0, n=1000, split="test", runtime="r")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def on_device(*block_ms: float, **changes: Any) -> OnDevice:
    series = Series.of(*([ms] * 9 for ms in block_ms)).latency(threads=1, machine="m", runtime="r", origin="device")
    made = OnDevice(
        device="nano", origin="device", created="", machine="m", architecture="aarch64", system="s", runtime="r", model_sha256="",
        is_target=True, golden_ok=True, golden="", latencies=(series,), before=DeviceState(), after=DeviceState(),
    )  # fmt: skip
    return made.model_copy(update=changes)


def contender(name: str, size_mb: float) -> Contender:
    return Contender(name, Path(name), size_mb, ACCURACY, None, None, order_ms=1.0, order_origin="estimate")


def shipped(budget: Budget, **found: OnDevice | DeviceError) -> tuple[str, dict[str, str]]:
    sizes = {"fp32": 4.0, "int8": 1.0}
    contenders = [as_measured(contender(name, sizes[name]), figures) for name, figures in found.items()]
    chosen = choose(contenders, budget, ACCURACY)
    return next(c.name for c in chosen if c.shipped), {c.name: c.reason for c in chosen}


def test_the_device_s_order_is_the_order() -> None:
    assert shipped(Budget(), fp32=on_device(1, 1, 1), int8=on_device(2, 2, 2))[0] == "fp32"
    assert shipped(Budget(), fp32=on_device(2, 2, 2), int8=on_device(1, 1, 1))[0] == "int8"


def test_a_candidate_beyond_the_latency_budget_does_not_ship() -> None:
    """The faster one is the only one within 1.5 ms; the other's reason names the budget."""
    name, reasons = shipped(Budget(p90_latency_ms=1.5), fp32=on_device(1, 1, 1), int8=on_device(2, 2, 2))

    assert name == "fp32" and "p90_latency_ms is at most 1.5" in reasons["int8"]


def test_an_unsteady_device_decides_no_latency_budget() -> None:
    unsteady = on_device(2, 3, 4, unstable=("it drifts",))

    assert "p90_latency_ms" not in shipped(Budget(p90_latency_ms=1.5), fp32=unsteady, int8=unsteady)[1]["fp32"]


def test_a_candidate_that_computes_something_else_there_or_fails_never_ships() -> None:
    wrong = on_device(1, 1, 1, golden_ok=False, golden="max difference 7", latencies=())

    name, reasons = shipped(Budget(), fp32=on_device(9, 9, 9), int8=wrong)
    assert name == "fp32" and "on nano it computes something else" in reasons["int8"]
    name, reasons = shipped(Budget(), fp32=on_device(9, 9, 9), int8=DeviceError("nano: the engine was not built\nlog"))
    assert name == "fp32" and reasons["int8"] == "nano: the engine was not built"


def test_candidates_are_measured_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    good, bad = tmp_path / "good" / "model.onnx", tmp_path / "bad" / "model.onnx"
    for file in (good, bad):
        file.parent.mkdir()
        onnx.save(onnx.parser.parse_model(UINT8), file)
    inputs = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    outputs = (inputs / 255).mean((1, 2)).astype(np.float32)
    golden, wrong = (Golden({"image": inputs}, {"": found}, {"": 1e-5}) for found in (outputs, outputs + 1))

    found = measure_candidates("local", load_target(HERE), {"fp32": (good, golden), "int8": (bad, wrong)}, {})

    assert isinstance(found["fp32"], OnDevice) and found["fp32"].golden_ok and found["fp32"].latencies
    assert isinstance(found["int8"], OnDevice) and not found["int8"].golden_ok


def test_a_device_of_another_kind_is_refused_before_anything_is_trained(short_digits: Recipe, tmp_path: Path) -> None:
    check_device("local", load_target(HERE))
    with pytest.raises(DeviceError, match=r"Raspberry Pi 5: .*without --device"):
        build(short_digits, ELSEWHERE, output=tmp_path, cache=tmp_path / "stages", device="local")
    with pytest.raises(DeviceError, match=r"no tensorrt .*python3-libnvinfer"):
        build(short_digits, "jetson", output=tmp_path, cache=tmp_path / "stages", device="local")
    assert {path.name for path in (tmp_path / "stages").iterdir()} <= {".locks", "hashes.json"}


@pytest.mark.slow
def test_a_build_is_decided_on_the_device(short_digits: Recipe, tmp_path: Path) -> None:
    recipe = short_digits.model_copy(update={"budget": Budget(p90_latency_ms=1e9)})
    report = build(recipe, HERE, output=tmp_path, cache=tmp_path / "stages", device="local", timing=SHORT)

    (found,) = report.devices
    assert found.device == "local" and found.golden_ok
    verdicts = {check.name: check.verdict for check in report.checks}
    assert verdicts["p90_latency_ms"] == ("unstable" if found.unstable else "pass")
    again = build(recipe, HERE, output=tmp_path, cache=tmp_path / "stages", device="local", timing=SHORT)
    assert again.devices == report.devices  # nothing changed, so nothing was measured again


def test_a_bundle_that_is_packaged_again_keeps_what_devices_said_of_the_same_model(
    bundle: Path, tmp_path: Path
) -> None:
    without = Report.model_validate_json((bundle / "report.json").read_bytes())
    found, measured = measure_all(bundle, ["local"], Options(warmup_s=0.02, block_s=0.02, min_n=30))
    assert not without.devices and measured.devices == tuple(found)
    again = with_earlier_devices(without, bundle, bundle / "model.onnx", None)
    assert again.devices == measured.devices and again.checks == measured.checks
    other = tmp_path / "other.onnx"
    other.write_bytes((bundle / "model.onnx").read_bytes() + b"\0")
    assert with_earlier_devices(without, bundle, other, None) == without
    assert with_earlier_devices(without, tmp_path / "nothing", other, None) == without
