"""The whole line on real scans from Python: what the settings change in the bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import edgekd
from edgekd.bundle.write import verify_bundle
from edgekd.check.preflight import check_memory
from edgekd.data.digits import load as digits
from edgekd.errors import ModelError, RecipeError
from edgekd.models.resnet import resnet8
from edgekd.recipe import Recipe, load_recipe
from edgekd.target import Target, load_target
from tests.builders.measuring import SHORT
from tests.builders.recipes import RECIPE


def recipe(folder: Path, *overrides: str) -> Recipe:
    (folder / "edgekd.toml").write_text(RECIPE)
    return load_recipe(folder, ["budget.max_drop_from_fp32=100", *overrides])


def built(folder: Path, target: str, *overrides: str) -> tuple[edgekd.Report, Path]:
    given = recipe(folder, *overrides)
    report = edgekd.build(given, target, output=folder / "build", cache=folder / "cache", timing=SHORT)
    return report, folder / "build" / folder.name / load_target_name(target)


def load_target_name(target: str) -> str:
    return edgekd.load_target(target).name


def graph_input(bundle: Path) -> tuple[int, list[int | str]]:
    tensor = onnx.load(bundle / "model.onnx").graph.input[0].type.tensor_type
    return tensor.elem_type, [dim.dim_value or dim.dim_param for dim in tensor.shape.dim]


def test_the_graph_takes_bytes_and_normalises_them_itself(tmp_path: Path) -> None:
    _, bundle = built(tmp_path, "x86-cpu", "quantize.mode=none")
    assert graph_input(bundle) == (onnx.TensorProto.UINT8, ["batch", 8, 8, 1])


def test_raw_float_in_and_probabilities_out_where_the_recipe_says_so(tmp_path: Path) -> None:
    report, bundle = built(tmp_path, "x86-cpu", "export.preprocess=false", "export.output=probabilities")
    assert graph_input(bundle) == (onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    with np.load(bundle / "golden.npz") as golden:
        np.testing.assert_allclose(golden["outputs"].sum(1), 1.0, atol=1e-3)
        assert golden["inputs"].dtype == np.float32 and len(golden["inputs"]) == 16
    assert json.loads((bundle / "manifest.json").read_text())["preprocess"] == {"mean": [0.31], "std": [0.38]}
    assert {candidate.name for candidate in report.candidates} == {"fp32", "int8"}


def test_the_report_counts_the_answers_of_the_graph_that_ships_and_names_the_model_of_each_stage(
    tmp_path: Path,
) -> None:
    """What is counted is predicted again here, by a plain session on the test split."""
    report, bundle = built(tmp_path, "x86-cpu")
    images, labels, names = digits("test")
    logits = onnxruntime.InferenceSession(bundle / "model.onnx").run(None, {"input": np.asarray(images)})[0]
    answers = logits.argmax(1)
    assert report.confusion is not None and report.confusion.n == len(labels)
    assert report.confusion.wrong == (answers != labels).sum() > 0
    for row, of_class in zip(report.confusion.counts, range(10), strict=True):
        assert list(row) == np.bincount(answers[labels == of_class], minlength=10).tolist()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for mistake in report.mistakes:
        assert names[labels[mistake.sample]] == mistake.label != mistake.answer == names[answers[mistake.sample]]
        assert mistake.probability == pytest.approx(100 * shares[mistake.sample].max(), abs=0.1)
    assert (bundle / "mistaken.jpg").is_file() and '<use href="#mistaken"/>' in (bundle / "report.html").read_text()
    scored = [stage["model"] for stage in report.stages if stage["name"] == "score"]
    assert scored == [f"edgekd:resnet8 (width 4), from export_{name}" for name in ("fp32", "int8")]
    (decoded,) = (stage["model"] for stage in report.stages if stage["name"] == "decode")
    assert decoded == ""


@pytest.mark.slow
def test_bf16_training_and_float32_qat_follow_each_other_in_one_build(tmp_path: Path) -> None:
    report, _ = built(tmp_path, "jetson", "distill.precision=bf16", "quantize.mode=qat", "quantize.epochs=1")
    assert {candidate.name for candidate in report.candidates} == {"fp32", "fp16", "int8"}
    assert not any("refuses" in candidate.reason for candidate in report.candidates)  # by construction


def test_bf16_is_a_candidate_where_the_target_has_it_and_is_not_timed_here(tmp_path: Path) -> None:
    report, _ = built(tmp_path, "jetson-thor", "quantize.mode=none")
    found = {candidate.name: candidate for candidate in report.candidates}
    assert list(found) == ["fp32", "fp16", "bf16"]
    assert found["bf16"].latency is None and found["bf16"].peak_memory_mb is None and found["fp16"].latency is not None
    assert found["bf16"].score.runtime.endswith("bf16 by rounding fp32)")
    assert found["bf16"].estimate.low_ms == found["fp16"].estimate.low_ms < found["fp32"].estimate.low_ms


def test_a_bf16_bundle_is_verified_here_and_run_in_tensorrt(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "targets" / "jetson-thor.toml").read_text()
    text = text[: text.index("[quantization]")].replace('"fp16", "bf16", "int8"', '"bf16"')
    (tmp_path / "thor.toml").write_text(text)
    report, bundle = built(tmp_path, str(tmp_path / "thor.toml"), "quantize.mode=none")
    assert report.chosen.name == "bf16"
    assert list(json.loads((bundle / "manifest.json").read_text())["trtexec"]) == ["10", "11"]
    assert "give --bf16, not --stronglyTyped" in (bundle / "README.txt").read_text()
    assert all(ok for _, ok, _ in verify_bundle(bundle))
    run = subprocess.run([sys.executable, bundle / "run.py", "--verify"], capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "see --engine" in run.stderr


def test_features_are_distilled_and_qat_goes_on_by_the_logits(tmp_path: Path) -> None:
    losses = 'distill.losses=[{method="at", weight=10.0, layers={"layer2"="layer2"}}]'
    report, _ = built(tmp_path, "jetson", losses, "quantize.mode=qat", "quantize.epochs=1")
    assert report.curves[0]["loss/at"] > 0


def test_every_figure_of_a_jetson_bundle_built_here_is_a_hosts_or_an_estimate(tmp_path: Path) -> None:
    report, bundle = built(tmp_path, "jetson")
    assert all(candidate.latency and candidate.latency.origin == "host" for candidate in report.candidates)
    assert next(check for check in report.checks if check.name == "latency on the device").verdict == "not measured"
    figures = json.loads((bundle / "manifest.json").read_text())["figures"]
    assert figures and {figure["origin"] for figure in figures} <= {"host", "estimate", "not measured"}
    order = next(check for check in report.checks if check.name == "order of the candidates in time")
    assert order.verdict == "not measured" and "no peak for fp32" in order.found
    assert "fastest" not in report.chosen.reason and "order in time is unknown" in report.chosen.reason
    assert report.chosen.order_ms is None
    assert next(check for check in report.checks if check.name == "lint for TensorRT 10.3.0").verdict == "pass"


def test_a_graph_that_the_target_s_parser_refuses_is_a_missed_check(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, n):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(64, n)\n"
        "    def forward(self, x):\n"
        "        x = x.flatten(1)\n"
        "        return self.fc(x) + torch.det(x.reshape(-1, 8, 8))[:, None] * 1e-9\n"
        "def build(num_classes):\n"
        "    return Net(num_classes)\n"
    )
    student = (f"student.model=python:{tmp_path}/net.py:build", "student.args={}", "quantize.mode=none")
    report, _ = built(tmp_path, "jetson", *student)
    check = next(check for check in report.checks if check.name.startswith("lint"))
    assert check.verdict == "missed" and not report.ok
    shipped = next(candidate for candidate in report.candidates if candidate.name == report.chosen.name)
    assert shipped.reason.startswith("NOT TO SHIP") and "Det is not" in shipped.reason


def test_the_shipped_graph_gives_the_golden_outputs_in_a_plain_session(tmp_path: Path) -> None:
    report, bundle = built(tmp_path, "raspberry-pi-5")
    if os.uname().machine == "x86_64":  # this processor's milliseconds are no Raspberry Pi's: they order nothing
        assert "order in time is unknown" in report.chosen.reason
        assert all("fastest" not in candidate.reason for candidate in report.candidates)
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    with np.load(bundle / "golden.npz") as golden:
        found = session.run(None, {session.get_inputs()[0].name: golden["inputs"]})[0]
        assert (found.argmax(1) == golden["outputs"].argmax(1)).all()


def test_a_feature_method_with_a_teacher_that_has_no_modules_is_refused_before_training(tmp_path: Path) -> None:
    _, bundle = built(tmp_path, "x86-cpu", "quantize.mode=none", "export.preprocess=false")
    with pytest.raises(RecipeError, match=r"modules that at .*use a method"):
        built(
            tmp_path, "x86-cpu", f"teacher.model=onnx:{bundle}/model.fp32.onnx", "teacher.args={}", "teacher.train_epochs=0",
            'distill.losses=[{method="at", layers={"layer2"="layer2"}}]',
        )  # fmt: skip


def test_what_no_budget_forbids_is_warned_about(tmp_path: Path) -> None:
    overrides = ["distill.losses=[]", "distill.epochs=1", "distill.optimizer.lr=1e-9", "quantize.mode=none"]
    report, bundle = built(
        tmp_path,
        "x86-cpu",
        *overrides,
        "budget.above_majority=true",
        "budget.max_class_drop=30",
        "teacher.train_epochs=3",
    )
    missed = {check.name: check.found for check in report.checks if check.verdict == "missed"}
    assert set(missed) == {"above_majority", "max_class_drop"} and "the teacher" in missed["max_class_drop"]
    assert not report.ok and (bundle / "README.txt").read_text().startswith("NOT TO SHIP")
    told = " ".join(report.warnings)
    assert "learned from labels alone" in told and "the teacher has" not in told
    assert "no better than naming" in told
    assert "train and test" not in told  # one function gives both, and is told which


def test_a_student_beyond_the_device_s_memory_is_refused() -> None:
    student, jetson = resnet8(10, 3), load_target("jetson")

    def with_memory(gb: float) -> Target:
        return jetson.model_copy(update={"hardware": jetson.hardware.model_copy(update={"ram_gb": (gb / 2, gb)})})

    count = sum(parameter.numel() for parameter in student.parameters())
    check_memory(student, with_memory((count + 1) / 1e9))
    with pytest.raises(ModelError, match=r" in int8, .*smaller student"):
        check_memory(student, with_memory((count - 1) / 1e9))


def test_a_jetsons_bundle_carries_an_estimate_of_each_candidate_and_marks_it(tmp_path: Path) -> None:
    report, bundle = built(tmp_path, "jetson", "quantize.mode=none")

    made = [
        figure
        for figure in json.loads((bundle / "manifest.json").read_text())["figures"]
        if figure["figure"] == "estimate_ms"
    ]
    assert [figure["model"] for figure in made] == ["fp32", "fp16"]
    for figure, candidate in zip(made, report.candidates, strict=True):
        assert candidate.estimate is not None and candidate.estimate.origin == figure["origin"] == "estimate"
        assert figure["interval"] == [candidate.estimate.low_ms, candidate.estimate.high_ms]
        assert 0 < candidate.estimate.low_ms < (candidate.estimate.high_ms or 0)
    page = (bundle / "report.html").read_text()
    assert "Estimate for the device" in page and "launch time at its low end" in page


@pytest.mark.parametrize("mode", ["ptq", pytest.param("qat", marks=pytest.mark.slow)])
def test_a_student_that_calls_view_ships_in_int8(mode: str, tmp_path: Path) -> None:
    """Its code needs contiguous tensors in training, in the captured graph, and behind the preprocessing of the file."""
    (tmp_path / "rows.py").write_text(
        "from torch import nn\n"
        "class Rows(nn.Module):\n"
        "    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(in_channels, 8, 3, stride=2, padding=1)\n"
        "        self.linear = nn.Linear(8 * 4 * 4, num_classes)\n"
        "    def forward(self, x):\n"
        "        x = self.conv(x).relu()\n"
        "        return self.linear(x.view(x.size(0), -1))\n"
    )
    changes = (f"student.model=python:{tmp_path}/rows.py:Rows", f"quantize.mode={mode}", "student.args={}")
    report, bundle = built(tmp_path, "raspberry-pi-5", *changes)
    assert "int8" in {candidate.name for candidate in report.candidates} and not report.dropped, report.dropped
    assert graph_input(bundle) == (onnx.TensorProto.UINT8, ["batch", 8, 8, 1])
