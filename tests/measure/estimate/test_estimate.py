"""Estimates: the roofline of small graphs by hand, and a calibration's words for what it does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekd.figures.candidate import Estimate
from edgekd.measure.estimate.calibration import Calibration, HeldOut
from edgekd.measure.estimate.estimate import estimate, estimate_calibrated
from edgekd.report.roofline import in_words
from edgekd.target import Hardware, Runtime, Target

PRODUCTS = 32 * 8 * 8 * 16 * 9
FP32_BYTES = 4 * (16 * 64 + 32 * 16 * 9 + 32 * 64)
INT8_BYTES = 16 * 64 + 32 * 16 * 9 + 4 * 32 * 64


def target(**figures: float) -> Target:
    sourced = {"source": "test", "date": "2026-11"}
    runtime = Runtime(name="tensorrt", precisions=("fp32",), default_opset=18, max_opset=20, **sourced)  # type: ignore[arg-type]
    hardware = Hardware(**sourced, **figures)  # type: ignore[arg-type]
    return Target(name="box", title="a box", hardware=hardware, runtime=runtime)


def found(path: Path, **figures: float) -> Estimate:
    made = estimate(path, target(**figures))
    assert made is not None
    return made


def conv(path: Path, *, int8: bool) -> Path:
    """A 3x3 convolution of 16 to 32 channels on 8x8 pixels."""
    kind = np.int8 if int8 else np.float32
    tensors = [
        onnx.numpy_helper.from_array(np.ones((32, 16, 3, 3), kind), "w"),
        onnx.numpy_helper.from_array(np.float32(0.1), "s"),
        onnx.numpy_helper.from_array(np.int8(0), "z"),
    ]
    quantized = """
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear(w, s, z)
        y = Conv<pads = [1, 1, 1, 1]>(xd, wd)"""
    body = quantized if int8 else "y = Conv<pads = [1, 1, 1, 1]>(x, w)"
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        f"net (float[batch, 16, 8, 8] x) => (float[batch, 32, 8, 8] y) {{ {body} }}"
    )
    model.graph.initializer.extend(tensors if int8 else tensors[:1])
    onnx.save(model, path)
    return path


def test_without_a_bandwidth_there_is_no_estimate(tmp_path: Path) -> None:
    assert estimate(conv(tmp_path / "m.onnx", int8=False), target(peak_fp16_tflops=1)) is None


def test_a_node_takes_its_bytes_over_the_bandwidth_where_that_is_longer(tmp_path: Path) -> None:
    made = found(conv(tmp_path / "m.onnx", int8=False), memory_bandwidth_gbs=1, peak_fp32_tflops=1000)
    assert made.low_ms == pytest.approx(FP32_BYTES / 1e9 * 1e3)


def test_a_node_takes_its_arithmetic_over_the_peak_where_that_is_longer(tmp_path: Path) -> None:
    made = found(conv(tmp_path / "m.onnx", int8=False), memory_bandwidth_gbs=1e6, peak_fp32_tflops=0.001)
    assert made.low_ms == pytest.approx(2 * PRODUCTS / 1e9 * 1e3)


def test_a_quantized_node_moves_bytes_and_counts_at_the_int8_peak(tmp_path: Path) -> None:
    model = conv(tmp_path / "m.onnx", int8=True)
    assert found(model, memory_bandwidth_gbs=1, peak_int8_tops=1000).low_ms == pytest.approx(INT8_BYTES / 1e6)
    by_arithmetic = found(model, memory_bandwidth_gbs=1e6, peak_int8_tops=0.004, peak_fp16_tflops=0.001)
    assert by_arithmetic.low_ms == pytest.approx(2 * PRODUCTS / 4e9 * 1e3)


def test_the_start_of_a_kernel_is_in_both_ends_where_the_profile_states_it_and_else_assumed_at_the_upper(
    tmp_path: Path,
) -> None:
    model = conv(tmp_path / "m.onnx", int8=False)
    bytes_ms = FP32_BYTES / 1e6

    stated = found(model, memory_bandwidth_gbs=1, peak_fp32_tflops=1000, kernel_overhead_us=5)
    assert (stated.low_ms, stated.high_ms) == pytest.approx((bytes_ms + 0.005, 10 * bytes_ms + 0.005))
    assert stated.leaves_out == () and "µs" not in stated.basis

    silent = found(model, memory_bandwidth_gbs=1, peak_fp32_tflops=1000)
    assert (silent.low_ms, silent.high_ms) == pytest.approx((bytes_ms, 10 * bytes_ms + 0.02))
    assert "20 µs for" in silent.basis
    assert "(1 kernel)" in silent.leaves_out[0]


def test_without_a_peak_there_is_no_upper_end(tmp_path: Path) -> None:
    made = found(conv(tmp_path / "m.onnx", int8=False), memory_bandwidth_gbs=1, peak_int8_tops=1)
    assert made.high_ms is None and in_words(made).startswith("more than ")
    assert made.leaves_out[0] == "arithmetic in fp32: the profile states no peak" and made.origin == "estimate"


def calibration(**rates: dict[str, float]) -> Calibration:
    held_out = [
        HeldOut(name=str(i), measured_ms=1.0, estimated_ms=e, noise=0.01) for i, e in enumerate((0.8, 1.0, 1.25))
    ]
    figures = {
        "start_ms": {"fp32": 0.25},
        "ms_per_gop": {"conv fp32": 100.0},
        "ms_per_gb": {"conv fp32": 1000.0},
        "lanes": 1,
        **rates,
    }
    return Calibration(
        device="pi", machine="aarch64", runtime="rt", created="2026-11-21", fitted_on=3, fit_error=0.1, noise=0.01, waited=1.0,
        held_out=tuple(held_out), **figures,
    )  # type: ignore[arg-type]  # fmt: skip


def test_a_calibrated_estimate_adds_start_arithmetic_and_bytes_and_spans_the_held_out_networks(tmp_path: Path) -> None:
    made = estimate_calibrated(conv(tmp_path / "m.onnx", int8=False), calibration())

    expected = 0.25 + 100 * 2 * PRODUCTS / 1e9 + 1000 * FP32_BYTES / 1e9
    assert sum(kernel.ms for kernel in made.kernels) == pytest.approx(expected)
    low, high = np.percentile([1 / 0.8, 1.0, 1 / 1.25], (10, 90))
    assert (made.low_ms, made.high_ms) == pytest.approx((low * expected, high * expected))
    assert calibration().median_error == pytest.approx(0.2)


def test_a_kernel_that_no_calibration_network_had_takes_the_upper_end_away(tmp_path: Path) -> None:
    made = estimate_calibrated(conv(tmp_path / "m.onnx", int8=True), calibration())
    unknown, small = made.leaves_out
    assert made.high_ms is None and unknown == "kernels that no calibration network had: conv int8"
    assert small.startswith("that it is smaller than every network that was fitted on (1e+06 operations)")
