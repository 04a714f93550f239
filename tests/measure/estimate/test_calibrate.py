"""A fit finds the rates that times were made from, is not bent by one disturbed network, and is kept by the device's name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekd.errors import DeviceError
from edgekd.export.lint import lint
from edgekd.measure.devices.emulated import Emulated
from edgekd.measure.devices.local import Local
from edgekd.measure.devices.process import Result
from edgekd.measure.estimate import calibrate as module
from edgekd.measure.estimate.calibrate import calibrate, fit_rates, runtime_there
from edgekd.measure.estimate.calibration import keep, load_calibration
from edgekd.measure.estimate.held_out import write_held_out
from edgekd.measure.estimate.kernels import Kernel, read_kernels
from edgekd.measure.estimate.nets import write_networks
from edgekd.runtime.check import precision_of
from edgekd.scripts.device_runner.facts import version_of
from edgekd.target import load_target

START_MS, MS_PER_GOP, MS_PER_GB = 0.01, {"conv fp32": 8.0, "pool fp32": 0.5}, {"conv fp32": 50.0, "pool fp32": 200.0}


def networks(count: int) -> list[list[Kernel]]:
    rng, widths = np.random.default_rng(0), np.random.default_rng(1)

    def kernel(kind: Any) -> Kernel:
        work = int(rng.integers(10**5, 10**8)), int(rng.integers(10**4, 10**6))
        return Kernel("k", kind, "fp32", *work, (int(widths.integers(1, 100)),) if kind == "conv" else ())

    return [[kernel(rng.choice(["conv", "pool"])) for _ in range(rng.integers(2, 20))] for _ in range(count)]


def true_ms(kernels: Sequence[Kernel], lanes: int = 1) -> float:
    return sum(
        START_MS + k.filled(lanes) / 1e9 * MS_PER_GOP[f"{k.kind} fp32"] + k.bytes / 1e9 * MS_PER_GB[f"{k.kind} fp32"]
        for k in kernels
    )


def test_the_rates_that_made_the_times_are_found_though_one_network_was_disturbed() -> None:
    made = networks(40)
    times = [true_ms(kernels) for kernels in made]
    times[7] *= 3

    fit = fit_rates(made, times)

    # By squares, that one network would move them by tens of percent.
    assert fit.start_ms == pytest.approx({"fp32": START_MS}, rel=0.03)
    assert fit.ms_per_gop == pytest.approx(MS_PER_GOP, rel=0.03) and fit.ms_per_gb == pytest.approx(MS_PER_GB, rel=0.03)


@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_the_width_of_the_vectors_that_made_the_times_is_found(lanes: int) -> None:
    made = networks(40)
    fit = fit_rates(made, [true_ms(kernels, lanes) for kernels in made])

    assert fit.lanes == lanes and fit.ms_per_gop == pytest.approx(MS_PER_GOP, rel=0.01)


def test_channels_that_do_not_fill_a_vector_cost_what_those_that_do_cost() -> None:
    assert Kernel("k", "conv", "fp32", 12 * 20 * 9, 1, (12, 20)).filled(16) == pytest.approx(16 * 32 * 9)
    assert Kernel("k", "pool", "fp32", 70, 1).filled(16) == 70


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_calibration_networks_run_and_are_the_same_each_time(tmp_path: Path, precision: Any) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths = write_networks(tmp_path / folder, 8, precision)
    assert [(tmp_path / "a" / path.name).read_bytes() for path in paths] == [path.read_bytes() for path in paths]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for path in paths:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        image = np.random.default_rng(0).uniform(0, 1, session.get_inputs()[0].shape).astype(np.float32)
        (scores,) = session.run(None, {"x": image})
        assert np.isfinite(scores).all() and np.abs(scores).max() > 0
        products = [kernel for kernel in read_kernels(path) if kernel.kind in ("conv", "pointwise")]
        assert products and {kernel.precision for kernel in products} == {precision}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_networks_for_tensorrt_are_what_its_scheme_takes(tmp_path: Path, precision: Any) -> None:
    """No lint error for a Jetson: zero-points are 0, no bias is quantized, Q and DQ stand before what takes integers alone."""
    target = load_target("jetson")
    for path in write_networks(tmp_path, 7, precision, "tensorrt"):
        assert precision_of(onnx.load(path)) == precision
        assert not [finding for finding in lint(path, target) if finding.severity == "error"]
        products = [kernel for kernel in read_kernels(path) if kernel.kind in ("conv", "pointwise")]
        assert products and {kernel.precision for kernel in products} == {precision}


@pytest.mark.slow
def test_what_tensorrt_is_checked_by_are_the_students_in_every_format(tmp_path: Path) -> None:
    held_out = write_held_out(tmp_path, "tensorrt")

    assert len(held_out) == 12
    for name, path in held_out.items():
        assert precision_of(onnx.load(path)) == name.split()[-1]
        assert not [finding for finding in lint(path, load_target("jetson")) if finding.severity == "error"]


def test_without_tensorrt_a_calibration_in_it_is_refused_and_no_engine_is_pretended(tmp_path: Path) -> None:
    if version_of("tensorrt"):
        pytest.skip("TensorRT is installed here")
    device = Local("this", str(tmp_path / "work"))
    assert runtime_there(device) == "onnxruntime"
    with pytest.raises(DeviceError, match=r"no tensorrt .*sudo apt install python3-libnvinfer"):
        runtime_there(device, "tensorrt")
    (one,) = write_networks(tmp_path, 1, "fp16", "tensorrt")
    with pytest.raises(DeviceError, match=r"device_timings\.py .*python3-libnvinfer"):
        calibrate(device, {"one": one}, runtime="tensorrt", rounds=2, networks={"fp32": 2})


def test_a_device_is_calibrated_by_what_it_measures_and_found_again_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_MS", 0.1)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (held_out,) = write_networks(tmp_path, 1, "fp32")

    found = calibrate(Local("this", str(tmp_path / "work")), {"one": held_out}, rounds=2, networks={"fp32": 6})

    assert found.runtime.startswith("onnxruntime") and found.fitted_on == 6
    assert found.held_out[0].name == "one" and found.held_out[0].measured_ms > 0
    # It is among those that were fitted on: six networks and more figures than that, so it is met closely.
    assert abs(found.held_out[0].error) < 0.5
    keep(found)
    assert load_calibration("this") == found
    with pytest.raises(DeviceError, match=r"'thiss'; have: this\. Did you mean this"):
        load_calibration("thiss")


def test_an_emulated_cpu_is_not_calibrated() -> None:
    with pytest.raises(DeviceError, match=r"one is emulated: .*calibrate a real device"):
        calibrate(Emulated("one", "cortex-a76"), {})


@pytest.mark.parametrize(
    "answer", ["nonsense", json.dumps({"cpu_ms": {}}), json.dumps({"cpu_ms": 3, "wall_ms": 4}), "[]"]
)
def test_times_that_make_no_sense_are_refused(tmp_path: Path, answer: str) -> None:
    class FakeLiar(Local):
        def run(self, words: Sequence[str], **settings: Any) -> Result:
            done = super().run(words, **settings)
            return Result(0, answer.encode(), "") if "device_timings.py" in " ".join(words) else done

    (model,) = write_networks(tmp_path, 1, "fp32")
    with pytest.raises(DeviceError, match=r"liar: .*times .*Error\("):
        module.time_on(FakeLiar("liar", str(tmp_path)), {"m.onnx": model}, rounds=2)
