"""Sounds go the whole way: a folder of WAVs, a recipe, one command, a bundle that tells a tone from another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgekd
from edgekd.bundle.write import verify_bundle
from edgekd.errors import DataError
from edgekd.figures.figures import Report
from tests.builders.measuring import SHORT
from tests.builders.sounds import RATE, TONES, tone, write_tones, write_wav

RECIPE = f"""
name = "tones"
[data]
input = "audio"
train = "train"
test = "test"
sample_rate = {RATE}
seconds = 0.5
holdout = 0.1
n_fft = 256
hop_length = 128
n_mels = 20
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
optimizer = {{ lr = 0.02 }}
[quantize]
calibration_samples = 64
[budget]
max_drop_from_fp32 = 10.0
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, Path]]:
    folder = tmp_path_factory.mktemp("tones")
    write_tones(folder / "train", 100, 0)
    write_tones(folder / "test", 20, 500)
    (folder / "edgekd.toml").write_text(RECIPE)
    report = edgekd.build(folder, "x86-cpu", output=folder / "build", cache=folder / "cache", timing=SHORT)
    yield report, folder / "build" / "tones" / "x86-cpu"


def run_py(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_teacher_and_student_learn_the_tones(built: tuple[Report, Path]) -> None:
    report, _ = built
    scores = {candidate.name: candidate.score.value for candidate in report.candidates}
    assert report.teacher is not None and report.teacher.value > 90
    assert set(scores) == {"fp32", "int8"} and min(scores.values()) > 90


def test_the_graph_takes_a_waveform_and_the_manifest_tells_its_rate(built: tuple[Report, Path]) -> None:
    _, bundle = built
    (given,) = onnx.load(bundle / "model.onnx").graph.input
    assert given.name == "waveform"
    table = json.loads((bundle / "manifest.json").read_text())["input"]
    assert table == {
        "name": "waveform",
        "dtype": "float32",
        "shape": ["batch", 4000],
        "layout": "",
        "sample_rate": RATE,
    }


def test_the_bundle_is_verified_by_the_host_and_by_itself(built: tuple[Report, Path]) -> None:
    assert all(ok for _, ok, _ in verify_bundle(built[1]))
    assert "ok      stored outputs" in run_py(built[1], "--verify").stdout


@pytest.mark.parametrize("name", TONES)
@pytest.mark.parametrize("samples", [3700, 4000, 4400])
def test_run_py_tells_the_tone_of_a_file(built: tuple[Report, Path], tmp_path: Path, name: str, samples: int) -> None:
    file = write_wav(tmp_path / "one.wav", tone(TONES[name], samples, 77))
    done = run_py(built[1], str(file))
    assert done.returncode == 0 and done.stdout.splitlines()[0].split()[-1] == name, done


def test_run_py_refuses_another_rate_and_two_channels(built: tuple[Report, Path], tmp_path: Path) -> None:
    done = run_py(built[1], str(write_wav(tmp_path / "fast.wav", np.zeros(100), rate=16000)))
    assert done.returncode == 2 and "a rate of 16000 Hz, the model takes 8000 Hz" in done.stderr
    done = run_py(built[1], str(write_wav(tmp_path / "two.wav", np.zeros((100, 2)))))
    assert done.returncode == 2 and "it has 2 channels" in done.stderr


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "sound, rate, told",
    [
        (np.zeros(4000), 16000, "its rate is 16000 Hz, data.sample_rate is 8000; set data.resample = true"),
        (np.zeros((4000, 2)), RATE, "it has 2 channels; set data.mono"),
        (np.zeros(0), RATE, "it holds no samples"),
        (None, RATE, "its header tells 16 bytes of samples, the file holds 10"),
    ],
)
def test_a_build_refuses_a_sound_before_anything_is_trained(
    tmp_path: Path, split: str, sound: np.ndarray | None, rate: int, told: str
) -> None:
    for name, seed in (("train", 0), ("test", 500)):
        write_tones(tmp_path / name, 4, seed)
    file = write_wav(tmp_path / split / "low" / "other.wav", np.zeros(1) if sound is None else sound, rate=rate)
    if sound is None:
        file.write_bytes(file.read_bytes()[:30])
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    with pytest.raises(DataError) as refused:
        edgekd.build(tmp_path, "x86-cpu", output=tmp_path / "build", cache=tmp_path / "cache", timing=SHORT)
    assert told in str(refused.value) and "other.wav" in str(refused.value)
    stages = {path.name.split("-")[0] for path in (tmp_path / "cache").glob("[a-z]*-*")}
    assert stages <= {"decode"} and not (tmp_path / "build" / "tones").exists()


@pytest.mark.parametrize("student", ["ds-cnn", pytest.param("bc-resnet", marks=pytest.mark.slow)])
def test_in_half_precision_and_int8_for_tensorrt_the_spectrogram_is_float32(tmp_path: Path, student: str) -> None:
    """And both networks ship: the one for a device that computes in fp16 has a float32 spectrogram."""
    write_tones(tmp_path / "train", 12, 0)
    write_tones(tmp_path / "test", 4, 500)
    network = f'[student]\nmodel = "edgekd:{student}"\nargs = {{ width = 8 }}'
    text = RECIPE.replace('[student]\nmodel = "edgekd:ds-cnn"\nargs = { width = 16 }', network)
    text = text.replace("n_mels = 20", "n_mels = 40\nf_min = 100.0").replace("n_fft = 256", "n_fft = 512")
    text = text.replace("epochs = 12", "epochs = 1").replace("max_drop_from_fp32 = 10.0", "max_drop_from_fp32 = 100.0")
    (tmp_path / "edgekd.toml").write_text(text)
    report = edgekd.build(
        tmp_path, "jetson", output=tmp_path / "build", cache=tmp_path / "cache", timing=SHORT, ask=lambda question: True
    )
    assert {"fp16", "int8"} <= {candidate.name for candidate in report.candidates}
    assert all(ok for _, ok, _ in verify_bundle(tmp_path / "build" / "tones" / report.target))
    for stage in ("export_fp16", "export_int8"):
        (path,) = (tmp_path / "cache").glob(f"{stage}-*/model.onnx")
        graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
        types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
        before = [node for node in graph.node if node.name.startswith("preprocess.")]
        assert [node.op_type for node in before] == ["Reshape", "Conv", "Mul", "Conv", "Add", "Log", "Reshape"]
        assert {types[node.output[0]] for node in before} == {onnx.TensorProto.FLOAT}
        assert any(value == onnx.TensorProto.FLOAT16 for value in types.values())
