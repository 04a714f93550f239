"""Tables go the whole way: a CSV, a recipe, one command, a bundle that reads rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import edgekd
from edgekd.bundle.write import verify_bundle
from edgekd.figures.figures import Report
from tests.builders.measuring import SHORT
from tests.builders.rows import rows, write_csv

TREES = """
import csv
from pathlib import Path
import numpy as np
from sklearn.ensemble import RandomForestClassifier

def matrix(ages, cities):
    return np.stack([np.nan_to_num(ages, nan=-1), cities == "Lima", cities == "Oslo"], 1).astype(float)

def make(num_classes):
    rows = list(csv.DictReader((Path(__file__).parent / "train.csv").read_text().splitlines()))
    ages = np.array([float(row["age"] or "nan") for row in rows])
    forest = RandomForestClassifier(30, min_samples_leaf=5, random_state=0)
    forest.fit(matrix(ages, np.array([row["city"] for row in rows])), [row["label"] for row in rows])
    return lambda table: forest.predict_proba(matrix(table["age"], table["city"]))
"""
RECIPE = """
name = "rows"
[data]
input = "table"
train = "train.csv"
test = "test.csv"
holdout = 0.1
augment = { swap = 0.05, noise = 0.01 }
[teacher]
model = "python:trees.py:make"
outputs = "probabilities"
raw = true
[student]
model = "edgekd:mlp"
args = { width = 32 }
[distill]
epochs = 10
batch_size = 32
views = 2
precision = "fp32"
optimizer = { name = "adamw", lr = 0.01 }
[quantize]
calibration_samples = 64
[budget]
max_drop_from_fp32 = 10.0
"""


def written(folder: Path, *changes: tuple[str, str], n: int = 600) -> Path:
    write_csv(folder / "train.csv", rows(n, 1))
    write_csv(folder / "test.csv", rows(200, 2))
    (folder / "trees.py").write_text(TREES)
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "edgekd.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, Path]]:
    folder = written(tmp_path_factory.mktemp("rows"))
    report = edgekd.build(folder, "x86-cpu", output=folder / "build", cache=folder / "cache", timing=SHORT)
    yield report, folder / "build" / "rows" / "x86-cpu"


def run_py(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_forest_teaches_and_the_student_learns(built: tuple[Report, Path]) -> None:
    report, _ = built
    assert report.teacher is not None and report.teacher.runtime.startswith("Python ")
    assert report.teacher.value > 90
    scores = {candidate.name: candidate.score.value for candidate in report.candidates}
    assert set(scores) == {"fp32", "int8"} and min(scores.values()) > 88


def test_the_manifest_tells_the_columns(built: tuple[Report, Path]) -> None:
    _, bundle = built
    assert [given.name for given in onnx.load(bundle / "model.onnx").graph.input] == ["numbers", "categories"]
    manifest = json.loads((bundle / "manifest.json").read_text())
    parts = ["days", "year_sin", "year_cos", "week_sin", "week_cos"]  # no row has a time of day
    dates = [{"name": "day", "part": part} for part in parts]
    assert manifest["input"]["columns"] == [{"name": "age"}, {"name": "income"}, *dates]
    assert manifest["further_inputs"][0]["columns"] == [{"name": "city", "words": ["Bergen", "Lima", "Oslo"]}]
    assert "?" in manifest["input"]["missing"]


def test_the_bundle_is_verified_by_the_host_and_by_itself(built: tuple[Report, Path]) -> None:
    assert all(ok for _, ok, _ in verify_bundle(built[1]))
    assert "ok      stored outputs" in run_py(built[1], "--verify").stdout


def test_run_py_answers_every_row_of_a_csv(built: tuple[Report, Path], tmp_path: Path) -> None:
    """Columns may stand in another order, and others beside them; unknown cities and missing ages are answered too."""
    table = [
        {"city": "Lima", "more": "x", "income": 5000, "day": "2026-03-04", "age": 30},
        {"city": "Oslo", "more": "x", "income": 5000, "day": "2026-03-04 12:30", "age": 30},
        {"city": "Atlantis", "more": "x", "income": 5000, "day": "2026-03-04", "age": 75},
        {"city": "?", "more": "x", "income": 5000, "day": "", "age": "NA"},
    ]
    done = run_py(built[1], str(write_csv(tmp_path / "new.csv", table)))
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and [line for line in lines if line.startswith("row")] == [
        f"row {n}:" for n in (1, 2, 3, 4)
    ]
    best = [lines[i + 1].split()[-1] for i, line in enumerate(lines) if line.startswith("row")]
    assert best[:3] == ["yes", "no", "yes"]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"age": "old"}, "row 2: column age holds 'old', which is no number; in train the column holds numbers"),
        ({"age": "inf"}, "row 2: column age holds 'inf', which is infinite"),
        ({"day": "4.3.2026"}, "column day holds '4.3.2026', which is no date as 2026-11-28"),
    ],
)
def test_run_py_refuses_a_value_by_its_row(
    built: tuple[Report, Path], tmp_path: Path, change: dict[str, str], told: str
) -> None:
    row = {"age": 30, "income": 5000, "city": "Lima", "day": "2026-03-04"}
    done = run_py(built[1], str(write_csv(tmp_path / "new.csv", [row, row | change])))
    assert done.returncode == 2 and told in done.stderr


def test_run_py_answers_rows_by_a_graph_of_batch_1_too(tmp_path: Path) -> None:
    written(
        tmp_path,
        ("epochs = 10", "epochs = 1"),
        ("[budget]", "[export]\nbatch = 1\n[budget]\nabove_majority = false"),
        n=100,
    )
    edgekd.build(
        tmp_path,
        "x86-cpu",
        output=tmp_path / "build",
        cache=tmp_path / "cache",
        timing=SHORT,
        ask=lambda question: True,
    )
    done = run_py(tmp_path / "build" / "rows" / "x86-cpu", str(tmp_path / "test.csv"))
    assert done.returncode == 0 and "row 200:" in done.stdout


def test_run_py_refuses_a_file_without_a_column(built: tuple[Report, Path], tmp_path: Path) -> None:
    done = run_py(built[1], str(write_csv(tmp_path / "new.csv", [{"age": 30, "city": "Lima", "day": "2026-03-04"}])))
    assert done.returncode == 2 and "lacks the columns income; this model takes a CSV" in done.stderr
    done = run_py(built[1], str(tmp_path / "cat.png"))
    assert done.returncode == 2 and "is no .csv: this model takes a CSV" in done.stderr


@pytest.mark.parametrize("student", ["mlp", pytest.param("ft-transformer", marks=pytest.mark.slow)])
def test_in_half_precision_and_int8_for_tensorrt_numbers_are_standardised_in_float32(
    tmp_path: Path, student: str
) -> None:
    """And both networks ship, with a runtime that takes every operator."""
    network = ('model = "edgekd:mlp"\nargs = { width = 32 }', f'model = "edgekd:{student}"')
    limit = ("max_drop_from_fp32 = 10.0", "max_drop_from_fp32 = 100.0\nabove_majority = false\nmax_class_drop = 100.0")
    written(tmp_path, network, ("epochs = 10", "epochs = 1"), limit, n=200)
    places = {"output": tmp_path / "build", "cache": tmp_path / "cache"}
    report = edgekd.build(tmp_path, "jetson", timing=SHORT, ask=lambda question: True, **places)
    assert {"fp16", "int8"} <= {candidate.name for candidate in report.candidates}
    assert all(ok for _, ok, _ in verify_bundle(tmp_path / "build" / "rows" / report.target))
    lint = next(check for check in report.checks if check.name.startswith("lint"))
    assert lint.verdict == "pass"
    for stage in ("export_fp16", "export_int8"):
        (path,) = (tmp_path / "cache").glob(f"{stage}-*/model.onnx")
        graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
        types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
        before = [node for node in graph.node if node.name.startswith("preprocess.")]
        assert [node.op_type for node in before] == ["IsNaN", "Where", "Sub", "Mul", "Cast", "Gather", "Concat"]
        assert {types[node.output[0]] for node in before} == {onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT}
        assert any(value == onnx.TensorProto.FLOAT16 for value in types.values())
