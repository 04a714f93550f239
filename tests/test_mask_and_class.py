"""A mask and a class at once: one student gives a tensor for each, learnt from two teachers, and run.py answers both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import edgekd
from edgekd.bundle.write import verify_bundle
from edgekd.errors import EdgekdError, ModelError, RecipeError
from edgekd.figures.figures import Report
from tests.builders.answers import SIDE, disc, write_discs
from tests.builders.measuring import SHORT
from tests.builders.shipped import run_py

RECIPE = """
name = "both"
[data]
train = "train.parquet"
test = "test.parquet"
holdout = 0.1
channels = 1
mean = [0.0]
std = [1.0]
augment = { flip = true }
[task]
kind = "segment"
classes = ["ground", "disc"]
[teacher]
model = "python:tests.test_mask_and_class:bright"
[[tasks]]
name = "size"
label = "size"
teacher = { model = "python:tests.test_mask_and_class:large" }
[student]
model = "edgekd:unet"
args = { width = 4, depth = 2 }
[distill]
epochs = 10
batch_size = 16
views = 2
precision = "fp32"
label_weight = 0.5
losses = [{ method = "kd", temperature = 2.0 }]
optimizer = { lr = 0.05 }
[quantize]
mode = "qat"
epochs = 1
calibration_samples = 32
[budget]
max_drop_from_fp32 = 10.0
"""
THE_CLASS_FIRST = """
[task]
kind = "classify"
[teacher]
model = "python:tests.test_mask_and_class:large"
[[tasks]]
name = "where"
label = "mask"
task = { kind = "segment", classes = ["ground", "disc"] }
teacher = { model = "python:tests.test_mask_and_class:bright" }
[student]
model = "python:tests.test_mask_and_class:both"
"""
RADIUS = 5.5  # of the smallest large disc, in pixels


class Bright(nn.Module):
    """A teacher of masks: a disc is brighter than 0.45, of a mean over 3 x 3 pixels."""

    def forward(self, x: Tensor) -> Tensor:
        z = 40 * (nn.functional.avg_pool2d(x, 3, 1, 1) - 0.45)
        return torch.cat([-z, z], 1)


class Large(nn.Module):
    """A teacher of sizes: the number of bright pixels."""

    def forward(self, x: Tensor) -> Tensor:
        z = 0.1 * ((nn.functional.avg_pool2d(x, 3, 1, 1) > 0.45).float().sum((1, 2, 3)) - np.pi * RADIUS**2)
        return torch.stack([-z, z], 1)


class Both(nn.Module):
    """A student of a class and a mask, in this order."""

    def __init__(self, num_classes: tuple[int, ...]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.whole, self.map = nn.Linear(16, num_classes[0]), nn.Conv2d(16, num_classes[1], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(x)
        return self.whole(y.mean((2, 3))), self.map(y)


def bright() -> nn.Module:
    return Bright()


def large() -> nn.Module:
    return Large()


def both(num_classes: tuple[int, ...]) -> nn.Module:
    return Both(num_classes)


def write(path: Path, n: int, seed: int) -> None:
    """Discs with their masks, and whether each is large."""
    table = pq.read_table(write_discs(path, n, seed))
    sizes = [int(radius > RADIUS) for radius in table["radius"].to_pylist()]
    pq.write_table(
        table.drop_columns(["radius"]).append_column("size", pa.array(sizes)).append_column("label", pa.array(sizes)),
        path,
    )


def build(folder: Path, target: str, *changes: str, recipe: str = RECIPE) -> tuple[Report, Path]:
    write(folder / "train.parquet", 300, 0)
    write(folder / "test.parquet", 60, 1)
    (folder / "edgekd.toml").write_text(recipe)
    places = {"output": folder / "build", "cache": folder / "cache"}
    report = edgekd.build(folder, target, overrides=changes, timing=SHORT, ask=lambda question: True, **places)
    return report, folder / "build" / "both" / report.target


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, Path]]:
    yield build(tmp_path_factory.mktemp("both"), "x86-cpu")


def test_a_student_learns_the_mask_and_the_class_from_two_teachers(built: tuple[Report, Path]) -> None:
    report, bundle = built
    assert {candidate.name for candidate in report.candidates} == {"fp32", "int8"}
    for candidate in report.candidates:
        assert candidate.score.metric == "mean IoU" and candidate.score.value > 85
    (note,) = (check for check in report.checks if check.name == "task size")
    found = re.fullmatch(r"top-1 ([\d.]+) % of 60 test samples \(its teacher ([\d.]+) %\)", note.found)
    assert found is not None and float(found[1]) > 75 and float(found[2]) > 90, note.found
    assert any(key.startswith("holdout/size") for key in report.curves[0])
    assert all(ok for _, ok, _ in verify_bundle(bundle))


def test_the_graph_has_an_output_for_each_and_the_manifest_its_kind(built: tuple[Report, Path]) -> None:
    _, bundle = built
    outputs = onnx.load(bundle / "model.onnx").graph.output
    shapes = {o.name: [size.dim_value for size in o.type.tensor_type.shape.dim][1:] for o in outputs}
    assert shapes == {"logits": [2, SIDE, SIDE], "size": [2]}
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["task"]["kind"] == "segment" and manifest["tasks"] == {"size": ["0", "1"]}
    assert "kinds" not in manifest


def test_run_py_writes_the_mask_and_names_the_class(built: tuple[Report, Path], tmp_path: Path) -> None:
    assert "ok      stored outputs" in run_py(built[1], "--verify").stdout
    pixels, own = disc(np.random.default_rng(9), 7.5)
    Image.fromarray(pixels.squeeze()).save(tmp_path / "cell.png")
    done = run_py(built[1], str(tmp_path / "cell.png"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"mask: {tmp_path / 'cell.mask.png'}" in lines and lines[lines.index("size:") + 1].endswith("  1")
    with Image.open(tmp_path / "cell.mask.png") as image:
        assert (np.asarray(image) == own).mean() > 0.9


def test_the_class_may_come_first_and_the_mask_behind_it(tmp_path: Path) -> None:
    head, _, rest = RECIPE.partition("[task]")
    recipe = head + THE_CLASS_FIRST + "[distill]" + rest.partition("[distill]")[2]
    relaxed = ("budget.above_majority=false", "budget.max_class_drop=100.0", "budget.max_drop_from_fp32=100.0")
    report, bundle = build(tmp_path, "raspberry-pi-5", "distill.epochs=3", "quantize.mode=ptq", *relaxed, recipe=recipe)
    (note,) = (check for check in report.checks if check.name == "task where")
    found = re.match(r"mean IoU ([\d.]+) %", note.found)
    assert found is not None and float(found[1]) > 60, note.found
    assert json.loads((bundle / "manifest.json").read_text())["kinds"] == {"where": "segment"}
    Image.fromarray(disc(np.random.default_rng(9), 7.5)[0].squeeze()).save(tmp_path / "cell.png")
    done = run_py(bundle, str(tmp_path / "cell.png"))
    assert done.returncode == 0, done.stderr
    assert f"mask: {tmp_path / 'cell.where.mask.png'}" in done.stdout and (tmp_path / "cell.where.mask.png").is_file()
    named = run_py(bundle, str(tmp_path / "cell.png"), "--mask", str(tmp_path / "named.png"))
    assert f"mask: {tmp_path / 'named.png'}" in named.stdout and (tmp_path / "named.png").is_file(), named.stderr
    assert all(ok for _, ok, _ in verify_bundle(bundle))


def test_probabilities_are_of_classes_alone(tmp_path: Path) -> None:
    head, _, rest = RECIPE.partition("[task]")
    recipe = head + THE_CLASS_FIRST + "[distill]" + rest.partition("[distill]")[2]
    with pytest.raises(RecipeError, match=r"given beside tasks\.0\.task\.kind"):
        build(tmp_path, "x86-cpu", "export.output=probabilities", recipe=recipe)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("student.model=edgekd:resnet8", ModelError, "the tasks need one for each"),
        (
            "student.model=python:tests.test_mask_and_class:bright",
            ModelError,
            "learns|return a tuple with a tensor for each",
        ),
        (
            "tasks.0.teacher.model=python:tests.test_mask_and_class:bright",
            ModelError,
            r"must return logits \[batch, classes\]",
        ),
        ('distill.losses=[{method="pkt"}]', RecipeError, "pkt"),
        ("export.output=probabilities", RecipeError, "probabilities are of classes"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    change: str, error: type[EdgekdError], message: str, tmp_path: Path
) -> None:
    changes = [change, *(["student.args={}"] if change.startswith("student.model") else [])]
    with pytest.raises(error, match=message):
        build(tmp_path, "x86-cpu", *changes)
