"""Lists of labels go the whole way for sounds: a CSV of paths and labels, and a bundle that names each tone of a chord."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgekd
from edgekd.bundle.write import verify_bundle
from edgekd.figures.figures import Report
from tests.builders.answers import chord, write_chords
from tests.builders.measuring import SHORT
from tests.builders.shipped import assert_scored_there, run_py
from tests.builders.sounds import RATE, TONES, write_wav

RECIPE = f"""
name = "chords"
[data]
input = "audio"
train = "train/sounds.csv"
test = "test/sounds.csv"
sample_rate = {RATE}
seconds = 0.5
holdout = 0.1
n_fft = 256
hop_length = 128
n_mels = 20
[task]
kind = "multilabel"
[teacher]
model = "edgekd:ds-cnn"
args = {{ width = 24 }}
train_epochs = 12
[student]
model = "edgekd:ds-cnn"
args = {{ width = 16 }}
[distill]
epochs = 12
batch_size = 16
views = 2
precision = "fp32"
label_weight = 0.5
losses = [{{ method = "mld", weight = 10.0 }}]
optimizer = {{ lr = 0.02 }}
[quantize]
calibration_samples = 64
[budget]
max_drop_from_fp32 = 10.0
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, Path]]:
    folder = tmp_path_factory.mktemp("chords")
    write_chords(folder / "train", 300, 0)
    write_chords(folder / "test", 60, 5000)
    (folder / "edgekd.toml").write_text(RECIPE)
    report = edgekd.build(folder, "x86-cpu", output=folder / "build", cache=folder / "cache", timing=SHORT)
    yield report, folder / "build" / "chords" / "x86-cpu"


def test_teacher_and_student_learn_which_tones_sound(built: tuple[Report, Path]) -> None:
    stored = json.loads((built[1] / "report.json").read_text())
    scores = {candidate["name"]: candidate["score"] for candidate in stored["candidates"]}
    assert set(scores) == {"fp32", "int8"}
    for score in (stored["teacher"], *scores.values()):
        assert (score["metric"], score["unit"], score["better"]) == ("mAP", "%", "higher")
        assert 90 < score["value"] <= score["high"] <= 100 and score["low"] <= score["value"]
        assert set(score["parts"]) == set(TONES)


def test_the_bundle_of_labels_is_verified_and_tells_its_thresholds(built: tuple[Report, Path]) -> None:
    report, bundle = built
    assert all(ok for _, ok, _ in verify_bundle(bundle))
    assert "ok      stored outputs" in run_py(bundle, "--verify").stdout
    task = json.loads((bundle / "manifest.json").read_text())["task"]
    assert task["kind"] == "multilabel" and all(0 < threshold < 1 for threshold in task["thresholds"])
    assert len(task["thresholds"]) == len(TONES)
    assert next(check for check in report.checks if check.name == "F1").found.count("micro") == 2


@pytest.mark.parametrize("names", [["high"], ["low", "middle"], ["high", "low", "middle"]])
def test_run_py_names_every_tone_of_a_chord(built: tuple[Report, Path], tmp_path: Path, names: list[str]) -> None:
    file = write_wav(tmp_path / "one.wav", chord(names, RATE // 2, 77))
    done = run_py(built[1], str(file))
    assert done.returncode == 0 and sorted(line.split()[-1] for line in done.stdout.splitlines()) == names, done


def test_run_py_says_that_silence_has_no_label(built: tuple[Report, Path], tmp_path: Path) -> None:
    done = run_py(built[1], str(write_wav(tmp_path / "none.wav", chord([], RATE // 2, 78))))
    assert done.returncode == 0 and done.stdout.startswith("no label; the likeliest is "), done


def test_a_device_scores_its_answers_as_the_host_does(
    built: tuple[Report, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_scored_there(built, "mAP", tmp_path, monkeypatch)
