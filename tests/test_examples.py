"""The examples of masks, labels and values at a size of seconds, and on a part of the data sets that they are made for."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

import edgekd
from edgekd.bundle.write import verify_bundle
from edgekd.figures.figures import Report
from tests.builders.answers import disc, write_discs
from tests.builders.measuring import SHORT
from tests.builders.places import EXAMPLES

SHORTLY = (
    "teacher.train_epochs=1", "distill.epochs=1", "distill.views=1", "distill.batch_size=16", "distill.precision=fp32",
    "quantize.calibration_samples=16", "budget.above_majority=false", "budget.max_class_drop=100", "budget.max_drop_from_fp32=100",
)  # fmt: skip


def build(example: str, target: str, folder: Path, data: tuple[Path, Path], *changes: str) -> tuple[Report, Path]:
    overrides = [f"data.train={data[0]}", f"data.test={data[1]}", *SHORTLY, *changes]
    places = {"output": folder / "build", "cache": folder / "cache"}
    ask: Callable[[str], bool] = lambda question: True  # noqa: E731
    report = edgekd.build(EXAMPLES / example, target, overrides=overrides, timing=SHORT, ask=ask, **places)
    return report, folder / "build" / example / target


def discs(folder: Path) -> tuple[Path, Path]:
    return write_discs(folder / "train.parquet", 60, 0), write_discs(folder / "test.parquet", 20, 1)


def labelled(folder: Path) -> tuple[Path, Path]:
    """Pictures with none, one or both of two labels, in a CSV of paths."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 20)):
        (folder / split).mkdir()
        with open(folder / split / "pictures.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "labels"])
            for number in range(n):
                names = [name for name in ("disc", "dark") if rng.random() < 0.5]
                pixels = disc(rng, 7.0 if "disc" in names else 0.5)[0] // (3 if "dark" in names else 1)
                Image.fromarray(pixels.squeeze()).save(folder / split / f"{number}.png")
                writer.writerow([f"{number}.png", "; ".join(names)])
    return folder / "train" / "pictures.csv", folder / "test" / "pictures.csv"


def valued(folder: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    for name, n in (("train", 80), ("test", 30)):
        a, b = rng.standard_normal((2, n))
        pq.write_table(pa.table({"a": a, "b": b, "decades": a + 2 * b}), folder / f"{name}.parquet")
    return folder / "train.parquet", folder / "test.parquet"


@pytest.mark.parametrize(
    ("example", "target", "write", "changes", "metric"),
    [
        ("segment", "raspberry-pi-5", discs, ("data.size=[32, 32]", "teacher.args.width=8"), "mean IoU"),
        ("multilabel", "raspberry-pi-5", labelled, ("data.size=[32, 32]",), "mAP"),
        ("regress", "raspberry-pi-5", valued, ("teacher.args.width=32",), "MAE"),
    ],
)
def test_an_example_becomes_a_bundle(
    example: str,
    target: str,
    write: Callable[[Path], tuple[Path, Path]],
    changes: tuple[str, ...],
    metric: str,
    tmp_path: Path,
) -> None:
    report, bundle = build(example, target, tmp_path, write(tmp_path), *changes)
    assert {"fp32", "int8"} <= {candidate.name for candidate in report.candidates}
    assert {candidate.score.metric for candidate in report.candidates} == {metric}
    assert all(ok for _, ok, _ in verify_bundle(bundle.parent / report.target))


def part(file: Path, rows: int, out: Path) -> Path:
    pq.write_table(pq.read_table(file).slice(0, rows), out)
    return out


@pytest.mark.shared
@pytest.mark.slow
def test_masks_of_nuclei_are_learnt(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "nuclei"
    splits = (part(data / "train.parquet", 300, tmp_path / "train"), part(data / "test.parquet", 60, tmp_path / "test"))
    report, _ = build("segment", "x86-cpu", tmp_path, splits, "teacher.train_epochs=4", "distill.epochs=4")
    scores = {candidate.name: candidate.score.value for candidate in report.candidates}
    assert scores["fp32"] > 70 and scores["fp32"] - scores["int8"] < 1  # naming the background always: about 43


@pytest.mark.shared
def test_ages_are_estimated_from_the_other_columns_of_adult(shared: Path, tmp_path: Path) -> None:
    splits = []
    for name, rows in (("train", 6000), ("test", 2000)):
        table = pq.read_table(shared / "data" / "adult" / f"{name}.parquet").slice(0, rows)
        decades = pc.divide(pc.cast(table["age"], pa.float64()), 10)
        table = table.drop_columns(["age", "label"]).append_column("decades", decades)
        pq.write_table(table, tmp_path / f"{name}.parquet")
        splits.append(tmp_path / f"{name}.parquet")
    longer = ("teacher.train_epochs=6", "distill.epochs=6", "distill.batch_size=128")
    report, _ = build("regress", "raspberry-pi-5", tmp_path, (splits[0], splits[1]), *longer)
    score = report.chosen.score
    assert score.metric == "MAE" and score.value < 0.95  # the median of train: about 1.09
    assert score.parts["R²"] > 0.2
