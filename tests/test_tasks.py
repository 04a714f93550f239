"""Masks, labels and values go the whole way: raw files, a recipe, one command, a bundle whose run.py answers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekd
from edgekd.bundle.write import verify_bundle
from edgekd.figures.figures import Report
from tests.builders.measuring import SHORT

MASKS = """
name = "squares"
[data]
train = "train"
test = "test"
holdout = 0.1
augment = { crop_padding = 2, flip = true }
[task]
kind = "segment"
classes = ["ground", "square"]
stride = 2
[teacher]
model = "edgekd:unet"
args = { width = 8, depth = 2 }
train_epochs = 20
[student]
model = "edgekd:unet"
args = { width = 4, depth = 2 }
[distill]
epochs = 6
batch_size = 16
views = 2
precision = "fp32"
label_weight = 0.5
losses = [{ method = "kd" }, { method = "cwd", weight = 0.1 }]
optimizer = { lr = 0.05 }
[quantize]
calibration_samples = 32
[budget]
max_drop_from_fp32 = 10.0
"""
ROWS = """
name = "rows"
[data]
input = "table"
train = "train.csv"
test = "test.csv"
holdout = 0.1
label = [{labels}]
[task]
kind = "{kind}"
[teacher]
model = "edgekd:mlp"
train_epochs = 15
[student]
model = "edgekd:mlp"
args = {{ width = 16 }}
[distill]
epochs = 15
batch_size = 32
views = 2
precision = "fp32"
label_weight = 0.5
losses = [{{ method = "{method}", weight = 0.5 }}]
optimizer = {{ name = "adamw", lr = 0.01 }}
[budget]
max_drop_from_fp32 = 10.0
"""


def write_squares(folder: Path, n: int, seed: int) -> None:
    """Bright squares on noise, 16x16 pixels, with their masks."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(n):
        picture, mask = rng.integers(0, 120, (16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)
        y, x, side = *rng.integers(0, 9, 2), rng.integers(4, 8)
        picture[y : y + side, x : x + side] += 100
        mask[y : y + side, x : x + side] = 1
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


def write_rows(path: Path, n: int, seed: int) -> None:
    """Two numbers, with two labels and a value that follow from them."""
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "warm", "wet", "price"])
        for a, b in rng.normal(size=(n, 2)):
            writer.writerow([f"{a:.4f}", f"{b:.4f}", int(a > 0), int(a + b > 0), f"{2 * a - b:.4f}"])


def build(folder: Path, recipe: str, name: str) -> tuple[Report, Path]:
    (folder / "edgekd.toml").write_text(recipe)
    report = edgekd.build(folder, "x86-cpu", output=folder / "build", cache=folder / "cache", timing=SHORT)
    return report, folder / "build" / name / "x86-cpu"


def run_py(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, Path]]:
    folder = tmp_path_factory.mktemp("squares")
    write_squares(folder / "train", 400, 0)
    write_squares(folder / "test", 40, 1)
    yield build(folder, MASKS, "squares")


def test_a_student_of_masks_learns_the_squares(squares: tuple[Report, Path]) -> None:
    report, bundle = squares
    scores = {candidate.name: candidate.score for candidate in report.candidates}
    assert set(scores) == {"fp32", "int8"} and all(score.metric == "mean IoU" for score in scores.values())
    assert min(score.value for score in scores.values()) > 85
    assert all(score.low < score.value < score.high and "pixel accuracy" in score.parts for score in scores.values())
    assert all(ok for _, ok, _ in verify_bundle(bundle)) and run_py(bundle, "--verify").returncode == 0


def test_run_py_writes_the_mask_of_a_picture(squares: tuple[Report, Path], tmp_path: Path) -> None:
    _, bundle = squares
    write_squares(tmp_path / "new", 1, 7)
    done = run_py(bundle, str(tmp_path / "new/images/0.png"), "--mask", str(tmp_path / "mask.png"))
    assert done.returncode == 0 and "square" in done.stdout, done.stderr
    with Image.open(tmp_path / "mask.png") as image, Image.open(tmp_path / "new/masks/0.png") as own:
        assert image.mode == "P" and (image.getpalette() or [])[:6] == [0, 0, 0, 128, 0, 0]
        assert (np.asarray(image) == np.asarray(own)).mean() > 0.9


def test_values_are_learnt_from_the_columns_of_a_table(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.csv", 400, 0)
    write_rows(tmp_path / "test.csv", 100, 1)
    recipe = ROWS.format(labels='"price"', kind="regress", method="teacher_bounded")
    recipe = recipe.replace("holdout = 0.1", 'holdout = 0.1\ndrop = ["warm", "wet"]')
    report, bundle = build(tmp_path, recipe, "rows")
    score = report.chosen.score
    assert score.metric == "MAE" and score.better == "lower" and score.value < 0.4 and score.parts["R²"] > 0.9
    (tmp_path / "new.csv").write_text("a,b\n1,0\n")
    done = run_py(bundle, str(tmp_path / "new.csv"))
    value, name = done.stdout.split()
    assert name == "price" and abs(float(value) - 2) < 1, done.stderr


def test_several_labels_are_learnt_from_columns_of_0_and_1(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.csv", 400, 0)
    write_rows(tmp_path / "test.csv", 100, 1)
    recipe = ROWS.format(labels='"warm", "wet"', kind="multilabel", method="mld")
    recipe = recipe.replace("holdout = 0.1", 'holdout = 0.1\ndrop = ["price"]')
    report, bundle = build(tmp_path, recipe, "rows")
    score = report.chosen.score
    assert score.metric == "mAP" and score.value > 95 and set(score.parts) == {"warm", "wet"}
    assert next(check for check in report.checks if check.name == "F1").found.count("micro") == 2
    task = json.loads((bundle / "manifest.json").read_text())["task"]
    assert task["kind"] == "multilabel" and len(task["thresholds"]) == 2
    (tmp_path / "new.csv").write_text("a,b\n3,-5\n")
    done = run_py(bundle, str(tmp_path / "new.csv"))
    assert "warm" in done.stdout and "wet" not in done.stdout, done.stdout + done.stderr
