"""The whole line on a slice of real photographs with the shared teacher."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import edgekd
from tests.builders.measuring import SHORT

EXAMPLE = Path(__file__).parent.parent / "examples" / "cifar10"
pytestmark = pytest.mark.shared


def slice_of(file: Path, rows: int, out: Path) -> Path:
    pq.write_table(pq.read_table(file).slice(0, rows), out)
    return out


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("onnx:{}/cifar10_resnet9.onnx", marks=pytest.mark.slow),
        "exported:{}/cifar10_resnet9.pt2",
        pytest.param("python:{}/cifar10_resnet9.py:build", marks=pytest.mark.slow),
    ],
)
def test_a_slice_of_cifar10_becomes_a_bundle(shared: Path, tmp_path: Path, form: str) -> None:
    """The teacher in each form that a user may have; its accuracy is that of its documentation."""
    teachers = shared / "teachers"
    overrides = [
        f"data.train={slice_of(shared / 'data/cifar10/train.parquet', 1000, tmp_path / 'train.parquet')}",
        f"data.test={slice_of(shared / 'data/cifar10/test.parquet', 500, tmp_path / 'test.parquet')}",
        f"teacher.model={form.format(teachers)}",
        "distill.epochs=2", "distill.views=1", "quantize.epochs=1", "budget.max_drop_from_fp32=30",
        "budget.max_class_drop=100",  # two epochs on a thousand pictures teach no class well
    ]  # fmt: skip
    if form.startswith("python"):
        overrides.append(f"teacher.weights={teachers / 'cifar10_resnet9.safetensors'}")
    places = {"output": tmp_path / "build", "cache": tmp_path / "cache"}
    report = edgekd.build(EXAMPLE, "jetson", overrides=overrides, timing=SHORT, **places)
    assert report.ok and report.classes[:2] == ("airplane", "automobile")
    # 90.29 % on all 10,000 images; 500 of them lie within 3.5 points of that.
    assert report.teacher.value == pytest.approx(90.29, abs=3.5)
    assert report.curves[1]["loss/kd"] < report.curves[0]["loss/kd"]
    assert {candidate.name for candidate in report.candidates} == {"fp32", "fp16", "int8"}
    agreement = next(check for check in report.checks if check.name == "int8 computes what was trained")
    assert agreement.verdict == "pass"
