"""lint on the files that went wrong: scales, branches, plugins, and infinities that fp16 holds."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgekd.export.lint import lint
from edgekd.target import load_target

ORIN, X86 = load_target("jetson-orin-nano"), load_target("x86-cpu")


@pytest.mark.parametrize("name", ["q_nan_xscale", "q_neg_wscale", "q_zero_wscale", "q_zero_xscale"])
def test_scales_that_are_not_positive_and_finite_are_told(shared: Path, name: str) -> None:
    file = shared / "faults" / "lint_scales" / f"{name}.onnx"
    assert [f.severity for f in lint(file, ORIN) if f.rule == "scales"] == ["error"]
    assert [f.severity for f in lint(file, X86) if f.rule == "scales"] == ["warning"]


def test_branches_of_different_rank_are_refused_on_tensorrt_alone(shared: Path) -> None:
    file = shared / "faults" / "lint_if" / "if_rank.onnx"
    assert [(f.severity, f.rule) for f in lint(file, ORIN)] == [("error", "branch_ranks")]
    assert lint(file, X86) == []


@pytest.mark.parametrize("name", ["clip_inf", "mask_min"])
def test_an_open_bound_and_a_mask_of_infinities_are_no_finding(shared: Path, name: str) -> None:
    assert lint(shared / "faults" / "lint_inf" / f"{name}.onnx", ORIN) == []


@pytest.mark.parametrize("name", ["effnms_nodomain", "effnms_TRTdomain"])
def test_a_plugin_of_tensorrt_is_told_by_name(shared: Path, name: str) -> None:
    (finding,) = lint(shared / "faults" / "lint_plugin" / f"{name}.onnx", ORIN)
    assert finding.severity == "note" and "EfficientNMS_TRT is a plugin" in finding.why


def test_an_operator_of_onnx_ml_is_refused_by_that_name(shared: Path) -> None:
    (finding,) = lint(shared / "faults" / "lint_plugin" / "ml_scaler.onnx", ORIN)
    assert finding.severity == "error" and "ONNX-ML" in finding.why


def test_a_scale_that_is_a_node_is_read_as_one_that_is_stored(tmp_path: Path) -> None:
    """Exporters write small constants as nodes."""
    text = """<ir_version: 9, opset_import: ["" : 19]> g (float[1,4] x) => (float[1,4] y) {
        s = Constant <value_float = 0.0> ()
        z = Constant <value = int8 {0}> ()
        q = QuantizeLinear (x, s, z)
        y = DequantizeLinear (q, s, z)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    assert [f.severity for f in lint(tmp_path / "model.onnx", ORIN) if f.rule == "scales"] == ["error"]
