"""What only judges trains nothing: another test file, a corrected test label, another budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgekd
from edgekd.figures.figures import Report
from edgekd.measure.protocol import Timing
from tests.builders.measuring import SHORT
from tests.builders.pictures import parquet, png

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
LABELS = [i % 3 for i in range(48)]
RECIPE = """
[data]
train = "train.parquet"
test = "test.parquet"
[teacher]
model = "edgekd:resnet8"
args = { width = 4 }
train_epochs = 1
[student]
model = "edgekd:resnet8"
args = { width = 4 }
[distill]
epochs = 1
batch_size = 16
views = 1
[budget]
above_majority = false
max_class_drop = 100
"""
JUDGES = {"decode_test", "score_teacher", "score", "score_quantized"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("splits")
    (place / "edgekd.toml").write_text(RECIPE)
    for name, rows in (("train", range(36)), ("test", range(36, 48)), ("other", range(30, 48))):
        parquet(place / f"{name}.parquet", [png(PIXELS[i]) for i in rows], [LABELS[i] for i in rows])
    build(place)
    return place


def build(folder: Path, *overrides: str, timing: Timing = SHORT) -> Report:
    built = edgekd.build(
        folder,
        "x86-cpu",
        overrides=overrides,
        output=folder / "build",
        cache=folder / "cache",
        ask=lambda question: True,
        timing=timing,
    )
    assert isinstance(built, Report)
    return built


def made(report: Report) -> set[str]:
    """The stages that ran, and were not in the cache."""
    return {str(stage["name"]) for stage in report.stages if not stage["reused"]}


def test_a_corrected_test_label_is_scored_anew_and_trains_nothing(folder: Path) -> None:
    before = build(folder)
    labels = [LABELS[i] for i in range(36, 48)]
    parquet(folder / "test.parquet", [png(PIXELS[i]) for i in range(36, 48)], [2, *labels[1:]])
    report = build(folder)
    assert made(report) == JUDGES
    assert report.chosen.score.n == before.chosen.score.n == 12
    assert report.chosen.score.parts != before.chosen.score.parts


def test_another_test_file_trains_nothing(folder: Path) -> None:
    report = build(folder, f"data.test={folder}/other.parquet")
    assert made(report) == JUDGES and report.chosen.score.n == 18


def test_another_budget_makes_nothing_anew(folder: Path) -> None:
    assert not made(build(folder, "budget.min_accuracy=2"))


def test_another_timing_makes_nothing_anew_and_is_the_one_that_is_reported(folder: Path) -> None:
    report = build(folder, "budget.min_accuracy=3", timing=replace(SHORT, blocks=4))
    assert not made(report)
    assert report.chosen.latency is not None and len(report.chosen.latency.block_medians_ms) == 4
