"""A network of two inputs with a free length goes the whole way: taught, quantized, exported, scored, shipped, run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekd.bundle.write import verify_bundle
from edgekd.cache.stage import Cache
from edgekd.check.evaluate import evaluate
from edgekd.check.package import package
from edgekd.check.preflight import check_teachers, preflight
from edgekd.figures.figures import Report
from edgekd.inputs import INPUTS, Kind
from edgekd.recipe import Recipe
from edgekd.steps.candidates import export_candidates
from edgekd.steps.distill import distill
from edgekd.steps.problem import Problem, Problems
from edgekd.steps.teach import teach, teachers_of
from edgekd.steps.trained import Trained
from edgekd.target import load_target
from tests.builders.measuring import SHORT
from tests.builders.tokens import LONGEST, Tokens, sentences, sentences_to_test, sentences_to_train

RECIPE = Recipe.model_validate(
    {
        "name": "sentences",
        "data": {"train": "python:nowhere:load", "test": "python:nowhere:load", "holdout": 0.1},
        "teacher": {"model": "python:tests.builders.tokens:reader", "args": {"width": 32}, "train_epochs": 6},
        "student": {"model": "python:tests.builders.tokens:reader"},
        "distill": {
            "epochs": 6, "batch_size": 64, "views": 2, "precision": "fp32", "label_weight": 0.5,
            "optimizer": {"lr": 0.02},
            "losses": [{"method": "kd", "weight": 1.0}, {"method": "dml", "weight": 0.1}],
        },
        "quantize": {"mode": "ptq", "calibration_samples": 128},
        "budget": {"max_drop_from_fp32": 5.0},
    }
)  # fmt: skip


@pytest.fixture(autouse=True)
def a_kind_beside_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INPUTS, "tokens", Kind(Tokens.of))


def built(folder: Path, name: str) -> Report:
    """As edgekd.pipeline.build, but for the split, which is decoded already."""
    target = load_target(name)
    with Cache(folder / "cache") as run:
        problem = Problem(run(sentences_to_train, 900), run(sentences_to_test, 400), RECIPE.data, RECIPE.task)
        problems = Problems(problem, problem, {})
        plan = preflight(run, RECIPE, target, problems)
        teachers = teachers_of(run, RECIPE, problem)
        check_teachers(RECIPE, problems, teachers, lambda question: False)
        instruction = teach(run, RECIPE, problems, teachers, plan.student, plan.learning)
        student = Trained(plan.student, run(distill, instruction.teaching, plan.student, instruction.begins_with))
        exported = export_candidates(run, RECIPE, target, problem, student, instruction.teaching, plan.form)
        report = evaluate(RECIPE, target, run, problems, instruction, exported, timing=SHORT)
        return package(folder / "bundle", RECIPE, target, run, problems, exported, report)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, Path]]:
    folder = tmp_path_factory.mktemp("tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(INPUTS, "tokens", Kind(Tokens.of))
        yield built(folder, "x86-cpu"), folder / "bundle"


def run_py(bundle: Path, *arguments: str) -> str:
    command = [sys.executable, "-B", str(bundle / "run.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_teacher_and_student_learn_and_int8_keeps_it(bundle: tuple[Report, Path]) -> None:
    report, _ = bundle
    scores = {candidate.name: candidate.score.value for candidate in report.candidates}
    assert report.teacher is not None and report.teacher.value > 90
    assert set(scores) == {"fp32", "int8"} and scores["fp32"] > 85 and scores["int8"] > scores["fp32"] - 3
    agreed = next(check for check in report.checks if check.name == "int8 computes what was trained")
    assert agreed.verdict == "pass"


def test_the_graph_has_both_inputs_with_one_free_length(bundle: tuple[Report, Path]) -> None:
    graph = onnx.load(bundle[1] / "model.onnx").graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    assert shapes == {"ids": ["batch", "length"], "mask": ["batch", "length"]}


def test_the_bundle_is_verified_by_the_host_and_by_itself(bundle: tuple[Report, Path]) -> None:
    assert all(ok for _, ok, _ in verify_bundle(bundle[1]))
    assert "ok      stored outputs" in run_py(bundle[1], "--verify")


def test_run_py_answers_a_sentence_of_any_length(bundle: tuple[Report, Path], tmp_path: Path) -> None:
    arrays, labels = sentences(12, 5)
    right = 0
    for row in range(12):
        length = int(arrays["mask"][row].sum())
        for cut in (length, LONGEST):  # as it is, and padded
            np.savez(tmp_path / "one.npz", **{name: array[row, :cut] for name, array in arrays.items()})
            first = run_py(bundle[1], str(tmp_path / "one.npz")).splitlines()[0].split()
            right += first[-1] == "abc"[labels[row]]
    assert right > 0.8 * 24


@pytest.mark.parametrize("name", ["jetson", "raspberry-pi-5"])
def test_so_it_is_for_other_targets(name: str, tmp_path: Path) -> None:
    report = built(tmp_path, name)
    scores = {candidate.name: candidate.score.value for candidate in report.candidates}
    assert "int8" in scores and min(scores.values()) > 85
    assert all(ok for _, ok, _ in verify_bundle(tmp_path / "bundle"))
