"""Values go the whole way for images: a column of numbers in parquet, and a bundle that tells how large a disc is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekd
from edgekd.bundle.write import verify_bundle
from edgekd.figures.figures import Report
from tests.builders.answers import disc, write_discs
from tests.builders.measuring import SHORT
from tests.builders.shipped import assert_scored_there, run_py

RECIPE = """
name = "sizes"
[data]
train = "train.parquet"
test = "test.parquet"
label = "radius"
holdout = 0.1
[task]
kind = "regress"
[teacher]
model = "edgekd:resnet8"
train_epochs = 20
[student]
model = "edgekd:resnet8"
[distill]
epochs = 20
batch_size = 16
views = 1
precision = "fp32"
label_weight = 0.5
losses = [{ method = "mse" }]
optimizer = { name = "adamw", lr = 0.005 }
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, Path]]:
    folder = tmp_path_factory.mktemp("sizes")
    write_discs(folder / "train.parquet", 320, 0)
    write_discs(folder / "test.parquet", 60, 1)
    (folder / "edgekd.toml").write_text(RECIPE)
    report = edgekd.build(folder, "x86-cpu", output=folder / "build", cache=folder / "cache", timing=SHORT)
    yield report, folder / "build" / "sizes" / "x86-cpu"


def test_teacher_and_student_learn_the_radius(built: tuple[Report, Path]) -> None:
    """Of radii from 3 to 8 pixels the median is 1.25 pixels off in the mean."""
    stored = json.loads((built[1] / "report.json").read_text())
    scores = {candidate["name"]: candidate["score"] for candidate in stored["candidates"]}
    assert set(scores) == {"fp32", "int8"}
    for score in (stored["teacher"], *scores.values()):
        assert (score["metric"], score["unit"], score["better"]) == ("MAE", "", "lower")
        assert 0 < score["low"] < score["value"] < score["high"] < 1
        assert set(score["parts"]) == {"RMSE", "R²"}


def test_the_bundle_of_values_is_verified_by_the_host_and_by_itself(built: tuple[Report, Path]) -> None:
    assert all(ok for _, ok, _ in verify_bundle(built[1]))
    assert "ok      stored outputs" in run_py(built[1], "--verify").stdout
    assert json.loads((built[1] / "manifest.json").read_text())["task"]["kind"] == "regress"


@pytest.mark.parametrize("radius", [4.0, 7.0])
def test_run_py_tells_the_radius_of_a_picture(built: tuple[Report, Path], tmp_path: Path, radius: float) -> None:
    picture, _ = disc(np.random.default_rng(9), radius)
    Image.fromarray(picture.squeeze()).save(tmp_path / "one.png")
    done = run_py(built[1], str(tmp_path / "one.png"))
    value, name = done.stdout.split()
    assert done.returncode == 0 and name == "radius" and abs(float(value) - radius) < 1.5, done


def test_a_device_scores_its_answers_as_the_host_does(
    built: tuple[Report, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_scored_there(built, "MAE", tmp_path, monkeypatch)
