"""Masks in parquet go the whole way: trained for integers, exported for each kind of runtime, answered as a picture."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from PIL import Image

import edgekd
from edgekd.bundle.read import add_to_report
from edgekd.bundle.write import verify_bundle
from edgekd.figures.figures import Report
from tests.builders.answers import SIDE, disc, write_discs
from tests.builders.measuring import SHORT
from tests.builders.shipped import assert_scored_there, run_py

RECIPE = """
name = "discs"
[data]
train = "train.parquet"
test = "test.parquet"
holdout = 0.1
augment = { crop_padding = 2, flip = true }
[task]
kind = "segment"
classes = ["ground", "disc"]
class_weights = [1.0, 2.0]
[teacher]
model = "edgekd:unet"
args = { width = 8, depth = 2 }
train_epochs = 20
[student]
model = "edgekd:unet"
args = { width = 4, depth = 2 }
[distill]
epochs = 8
batch_size = 16
views = 2
precision = "fp32"
label_weight = 0.5
losses = [{ method = "kd" }, { method = "skd", layers = { "up.1" = "up.1" } }]
optimizer = { lr = 0.05 }
[quantize]
mode = "qat"
epochs = 1
calibration_samples = 32
[budget]
max_drop_from_fp32 = 10.0
"""


def build(folder: Path, target: str, *changes: str) -> tuple[Report, Path]:
    write_discs(folder / "train.parquet", 200, 0)
    write_discs(folder / "test.parquet", 40, 1)
    (folder / "edgekd.toml").write_text(RECIPE)
    places = {"output": folder / "build", "cache": folder / "cache"}
    report = edgekd.build(folder, target, overrides=changes, timing=SHORT, ask=lambda question: True, **places)
    return report, folder / "build" / "discs" / report.target


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, Path]]:
    yield build(tmp_path_factory.mktemp("discs"), "x86-cpu")


def test_a_student_of_masks_is_trained_for_integers_and_keeps_its_score(built: tuple[Report, Path]) -> None:
    stored = json.loads((built[1] / "report.json").read_text())
    scores = {candidate["name"]: candidate["score"] for candidate in stored["candidates"]}
    assert set(scores) == {"fp32", "int8"}
    assert "train_quantized" in {stage["name"] for stage in stored["stages"]}
    for score in (stored["teacher"], *scores.values()):
        assert (score["metric"], score["unit"], score["better"]) == ("mean IoU", "%", "higher")
        assert 80 < score["low"] < score["value"] < score["high"] < 100
        assert set(score["parts"]) == {"ground", "disc", "pixel accuracy"}


def test_the_bundle_of_masks_is_verified_by_the_host_and_by_itself(built: tuple[Report, Path]) -> None:
    assert all(ok for _, ok, _ in verify_bundle(built[1]))
    assert "ok      stored outputs" in run_py(built[1], "--verify").stdout


def test_the_graph_gives_logits_of_each_pixel_and_the_manifest_the_task(built: tuple[Report, Path]) -> None:
    _, bundle = built
    (given,) = onnx.load(bundle / "model.onnx").graph.output
    assert [size.dim_value for size in given.type.tensor_type.shape.dim][1:] == [2, SIDE, SIDE]
    assert json.loads((bundle / "manifest.json").read_text())["task"]["kind"] == "segment"
    assert (bundle / "labels.txt").read_text().split() == ["ground", "disc"]


def test_run_py_writes_the_mask_beside_the_picture(built: tuple[Report, Path], tmp_path: Path) -> None:
    picture, own = disc(np.random.default_rng(9), 6.0)
    Image.fromarray(picture.squeeze()).save(tmp_path / "cell.png")
    done = run_py(built[1], str(tmp_path / "cell.png"))
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"mask: {tmp_path / 'cell.mask.png'}", done.stderr
    with Image.open(tmp_path / "cell.mask.png") as image:
        assert image.mode == "P" and (np.asarray(image) == own).mean() > 0.95


@pytest.mark.parametrize("turned", [False, True])
def test_the_mask_has_the_size_of_the_picture(built: tuple[Report, Path], tmp_path: Path, turned: bool) -> None:
    pixels, own = disc(np.random.default_rng(9), 6.0)
    picture, exif = Image.fromarray(pixels.squeeze()).resize((96, 64), Image.Resampling.NEAREST), Image.Exif()
    if turned:
        picture, exif[0x0112] = picture.transpose(Image.Transpose.ROTATE_90), 6  # to be turned back by 90 degrees
    picture.save(tmp_path / "cell.png", exif=exif)
    done = run_py(built[1], str(tmp_path / "cell.png"), "--mask", str(tmp_path / "out.png"))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.png") as image:
        expected = np.asarray(Image.fromarray(own).resize((96, 64), Image.Resampling.NEAREST))
        assert image.size == (96, 64) and (np.asarray(image) == expected).mean() > 0.95


def test_the_mask_of_an_array_has_its_size_and_that_of_a_batch_the_networks(
    built: tuple[Report, Path], tmp_path: Path
) -> None:
    pixels = disc(np.random.default_rng(9), 6.0)[0].repeat(3, 2)
    np.save(tmp_path / "large.npy", pixels.repeat(2, 0).repeat(3, 1))
    np.savez(tmp_path / "batch.npz", input=pixels[None])
    for name, size in (("large.npy", (3 * SIDE, 2 * SIDE)), ("batch.npz", (SIDE, SIDE))):
        done = run_py(built[1], str(tmp_path / name), "--mask", str(tmp_path / "out.png"))
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / "out.png") as image:
            assert image.size == size


def panels(bundle: Path) -> np.ndarray:
    """The pictures of the report, int [rows, 3, SIDE, SIDE, 3]: plain, with their masks, with the model's."""
    with Image.open(bundle / "overlays.jpg") as image:
        sheet = np.asarray(image).astype(int)
    step, whole = 240 + 6, slice(None)
    assert sheet.shape == (6 * step - 6, 3 * step - 6, 3)
    middle = (np.arange(SIDE) * 240 + 120) // SIDE  # of each pixel, which is several in the sheet
    rows, columns = (np.arange(n)[:, None] * step + middle for n in (6, 3))
    found: np.ndarray = sheet[rows][whole, whole, columns].transpose(0, 2, 1, 3, 4)
    return found


def test_the_report_shows_pictures_under_their_masks_and_under_the_models(built: tuple[Report, Path]) -> None:
    bundle = built[1]
    rows = pq.read_table(bundle.parents[2] / "test.parquet").to_pylist()
    pictures, masks = (
        np.array([np.asarray(Image.open(io.BytesIO(row[key]["bytes"]))) for row in rows]) for key in ("image", "mask")
    )
    overlaps = []
    for plain, truth, answer in panels(bundle):
        which = int(np.abs(pictures.reshape(len(rows), SIDE, SIDE, -1) - plain).mean((1, 2, 3)).argmin())
        covered, expected = np.abs(truth - plain).mean(2) > 20, masks[which] == 1
        assert (covered == expected).mean() > 0.9  # a JPEG's edges are soft
        found = np.abs(answer - plain).mean(2) > 20
        overlaps.append((found & expected).sum() / (found | expected).sum())
    assert overlaps[0] == min(overlaps) and overlaps[-1] > overlaps[0] > 0.3
    page = (bundle / "report.html").read_text()
    assert base64.b64encode((bundle / "overlays.jpg").read_bytes()).decode() in page
    assert '<i style="background:#800000' in page and "ground: without colour" in page


def test_a_report_that_gets_a_devices_figures_keeps_its_pictures(built: tuple[Report, Path], tmp_path: Path) -> None:
    bundle = shutil.copytree(built[1], tmp_path / "bundle")
    add_to_report(bundle, lambda report, manifest: report.model_copy(update={"created": "later"}))
    page = (bundle / "report.html").read_text()
    assert "later" in page and base64.b64encode((bundle / "overlays.jpg").read_bytes()).decode() in page


def test_run_py_refuses_a_batch_because_a_mask_is_of_one_picture(built: tuple[Report, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", np.zeros((2, SIDE, SIDE, 3), np.uint8))
    done = run_py(built[1], str(tmp_path / "two.npy"))
    assert done.returncode == 2 and "a mask is written for one: give one picture" in done.stderr


def test_a_device_scores_its_answers_as_the_host_does(
    built: tuple[Report, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_scored_there(built, "mean IoU", tmp_path, monkeypatch)


@pytest.mark.parametrize("target", ["jetson", "raspberry-pi-5"])
def test_masks_ship_for_each_runtime(tmp_path: Path, target: str) -> None:
    short = ("teacher.train_epochs=1", "distill.epochs=1", "quantize.mode=ptq", "budget.max_drop_from_fp32=100.0")
    report, bundle = build(tmp_path, target, *short, "budget.above_majority=false", "budget.max_class_drop=100.0")
    wanted = {"fp32", "fp16", "int8"} if target == "jetson" else {"fp32", "int8"}
    assert wanted <= {candidate.name for candidate in report.candidates}
    assert all(ok for _, ok, _ in verify_bundle(bundle))
    assert next(check for check in report.checks if check.name.startswith("lint")).verdict == "pass"
