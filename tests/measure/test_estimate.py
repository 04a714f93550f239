"""Estimates: the roofline of small graphs by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekd.measure.estimate import lower_bound_ms
from edgekd.target import Hardware

PRODUCTS = 32 * 8 * 8 * 16 * 9
FP32_BYTES = 4 * (16 * 64 + 32 * 16 * 9 + 32 * 64)
INT8_BYTES = 16 * 64 + 32 * 16 * 9 + 4 * 32 * 64


def hardware(**figures: float) -> Hardware:
    return Hardware(source="test", date="2026-11", **figures)  # type: ignore[arg-type]


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
    assert lower_bound_ms(conv(tmp_path / "m.onnx", int8=False), hardware(peak_fp16_tflops=1)) is None


def test_a_node_takes_its_bytes_over_the_bandwidth_where_that_is_longer(tmp_path: Path) -> None:
    found = lower_bound_ms(
        conv(tmp_path / "m.onnx", int8=False), hardware(memory_bandwidth_gbs=1, peak_fp32_tflops=1000)
    )
    assert found == pytest.approx(FP32_BYTES / 1e9 * 1e3)


def test_a_node_takes_its_arithmetic_over_the_peak_where_that_is_longer(tmp_path: Path) -> None:
    found = lower_bound_ms(
        conv(tmp_path / "m.onnx", int8=False), hardware(memory_bandwidth_gbs=1e6, peak_fp32_tflops=0.001)
    )
    assert found == pytest.approx(2 * PRODUCTS / 1e9 * 1e3)


def test_a_quantized_node_moves_bytes_and_counts_at_the_int8_peak(tmp_path: Path) -> None:
    model = conv(tmp_path / "m.onnx", int8=True)
    assert lower_bound_ms(model, hardware(memory_bandwidth_gbs=1, peak_int8_tops=1000)) == pytest.approx(
        INT8_BYTES / 1e6
    )
    by_arithmetic = lower_bound_ms(
        model, hardware(memory_bandwidth_gbs=1e6, peak_int8_tops=0.004, peak_fp16_tflops=0.001)
    )
    assert by_arithmetic == pytest.approx(2 * PRODUCTS / 4e9 * 1e3)
