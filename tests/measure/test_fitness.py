"""What a device lacks is told after the probe, all at once, with the remedy. The facts are made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.errors import DeviceError
from edgekd.measure.answer import Facts
from edgekd.measure.fitness import check_fit, is_target
from edgekd.target import load_target

JETSON = load_target("jetson-orin-nano")
PI = load_target("raspberry-pi-5")


def facts(**changes: Any) -> Facts:
    """An Orin Nano with JetPack 6.2, as the probe would tell."""
    made: dict[str, Any] = {
        "machine": "aarch64",
        "system": "Linux 5.15",
        "board": "Jetson Orin Nano",
        "cores": 6,
        "python": "3.10.12",
        "runtimes": {"numpy": "1.26.4", "onnxruntime": None, "tensorrt": "10.3.0"},
        "power_modes": {"15W": 0, "25W": 1, "MAXN_SUPER": 2},
        "state": {"power_mode": "15W"},
        "free_mb": 1000.0,
    }
    return Facts.model_validate({**made, **changes})


def refused(found: Facts, runtime: str = "tensorrt", **wanted: Any) -> str:
    with pytest.raises(DeviceError) as error:
        check_fit("nano", found, JETSON, runtime, **wanted)
    return str(error.value)


def test_a_device_that_has_all_is_fit() -> None:
    check_fit("nano", facts(), JETSON, "tensorrt", missing_mb=10, whole_mb=10, power_mode="15W")


def test_a_device_without_tensorrt_is_told_where_it_is_found() -> None:
    text = refused(facts(runtimes={"numpy": "1.26.4", "tensorrt": None, "onnxruntime": "1.20"}))

    assert "no tensorrt" in text and "python3-libnvinfer" in text and "--runtime onnxruntime" in text


def test_another_tensorrt_than_the_bundle_is_for_is_told() -> None:
    text = refused(facts(runtimes={"numpy": "1.21", "tensorrt": "8.5.2.2"}))

    assert "TensorRT 8.5.2.2 (JetPack 5.1.x)" in text and "for 10.3.0" in text


def test_a_newer_tensorrt_is_fit() -> None:
    check_fit("nano", facts(runtimes={"numpy": "2", "tensorrt": "10.16.2"}), JETSON, "tensorrt")


def test_another_power_mode_is_told_with_this_board_s_own_id() -> None:
    assert "sudo nvpmodel -m 2 " in refused(facts(), power_mode="MAXN_SUPER")
    assert " 7W; have: 15W, 25W, MAXN_SUPER" in refused(facts(), power_mode="7W")


def test_everything_that_is_in_the_way_is_told_at_once() -> None:
    text = refused(facts(free_mb=1.0, runtimes={}), missing_mb=5, whole_mb=5, power_mode="25W")

    assert all(word in text for word in ("no numpy", "no tensorrt", "nvpmodel -m 1", "1 MB are free"))


def test_a_place_that_cannot_be_written_is_told() -> None:
    place = {"writable": False, "free_mb": 1000.0, "foreign": True, "version": None}
    text = refused(facts(to=place), to="/opt/models/x")

    assert "/opt/models/x cannot be written" in text and "was not shipped by edgekd" in text


def test_a_runtime_that_python_cannot_run_is_told() -> None:
    assert "does not run from Python there" in refused(facts(), runtime="qnn")


def test_only_the_target_s_architecture_and_runtime_decide_its_budget() -> None:
    assert is_target(facts(), JETSON, "tensorrt")
    assert not is_target(facts(), JETSON, "onnxruntime")
    assert not is_target(facts(machine="x86_64"), JETSON, "tensorrt")
    assert is_target(facts(), PI, "onnxruntime") and not is_target(facts(machine="x86_64"), PI, "onnxruntime")
    assert is_target(facts(machine="x86_64"), load_target("x86-cpu"), "onnxruntime")
    mac = load_target("apple-silicon")  # macOS calls the instruction set arm64
    assert is_target(facts(machine="arm64"), mac, "onnxruntime")
    assert not is_target(facts(machine="armv7l"), load_target("raspberry-pi-zero-2-w"), "onnxruntime")
