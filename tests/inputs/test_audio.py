"""Sounds: the spectrogram against float64, the graph against the loop, the views, and what is float32 in half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd.export.to_half import to_bf16, to_fp16
from edgekd.export.to_onnx import to_onnx
from edgekd.inputs import Audio
from edgekd.inputs.sound_views import at_speed
from edgekd.models.ds_cnn import ds_cnn
from edgekd.recipe import AudioAugmentation, AudioData
from edgekd.target import list_targets
from tests.builders.sounds import tone, write_wav

# Of log-power, between float32 in any order of its sums and float64: 1e-4, but for the quiet bands beside a pure tone, 120 dB
# below it, where float32 sums end.
BOUND = np.array([1e-4, 2e-3, 2e-3, 1e-4, 1e-4, 1e-4])[:, None, None, None]
SETTINGS = [
    {"sample_rate": 16000},
    {"sample_rate": 16000, "n_fft": 480, "hop_length": 320, "n_mfcc": 10},
    {"sample_rate": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 20, "f_min": 0.0, "f_max": 3800.0},
    {"sample_rate": 16000, "n_fft": 400, "hop_length": 160, "n_mels": 64, "f_min": 60.0, "n_mfcc": 64},
    {"sample_rate": 4000, "n_fft": 126, "hop_length": 50, "n_mels": 8},
]
OPSETS = sorted({target.runtime.default_opset for target in list_targets()})


def audio(samples: int = 8000, **settings: object) -> Audio:
    return Audio(samples, AudioData.model_validate({"input": "audio", "train": "a", "test": "b", **settings}))


def waves(samples: int, rate: int) -> NDArray[np.float32]:
    """Noise, a loud tone, two tones, a click, silence and speech-like bursts."""
    rng, time = np.random.default_rng(0), np.arange(samples) / rate
    noise = 0.3 * rng.standard_normal(samples)
    loud = 0.99 * np.sin(2 * np.pi * 440 * time)
    chord = 0.4 * np.sin(2 * np.pi * 300 * time) + 0.01 * np.sin(2 * np.pi * 1500 * time)
    click = (np.arange(samples) == samples // 2).astype(float)
    bursts = noise * (np.sin(2 * np.pi * 3 * time) > 0.5) + 0.001 * rng.standard_normal(samples)
    return np.stack([noise.clip(-1, 1), loud, chord, click, np.zeros(samples), bursts]).astype(np.float32)


def expected(sounds: NDArray[np.float32], data: AudioData) -> NDArray[np.float64]:
    """In float64 by an FFT and by the definitions of each step."""
    n, hop = data.n_fft, data.hop_length
    padded = np.pad(sounds.astype(np.float64), ((0, 0), (n // 2, n // 2)))
    window = np.hanning(n + 1)[:-1]
    starts = range(0, padded.shape[1] - n + 1, hop)
    power = np.stack([np.abs(np.fft.rfft(padded[:, s : s + n] * window)) ** 2 for s in starts], 2)

    def mel(hertz: float) -> float:
        return float(2595 * np.log10(1 + hertz / 700))

    steps = np.linspace(mel(data.f_min), mel(data.highest), data.n_mels + 2)
    corners = [700 * (10 ** (step / 2595) - 1) for step in steps]
    hertz = np.fft.rfftfreq(n, 1 / data.sample_rate)
    bands = [np.interp(hertz, corners[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(data.n_mels)]
    log = np.log(np.einsum("mf,nft->nmt", np.stack(bands), power) + 1e-6)
    if not data.n_mfcc:
        return log[:, None]
    k, m = np.arange(data.n_mfcc)[:, None], np.arange(data.n_mels)
    cosines = np.sqrt(np.where(k == 0, 1, 2) / data.n_mels) * np.cos(np.pi / data.n_mels * (m + 0.5) * k)
    return np.einsum("km,nmt->nkt", cosines, log)[:, None]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_spectrogram_is_that_of_float64(settings: dict[str, object]) -> None:
    input = audio(**settings)
    sounds = waves(8000, input.data.sample_rate)
    found = input.preprocess()(torch.from_numpy(sounds)).numpy()
    wanted = expected(sounds, input.data)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    assert input.arguments[0].stored == found.shape[1:]
    assert (np.abs(found - wanted) < BOUND).all()


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("opset", OPSETS)
def test_the_graph_computes_the_spectrogram_of_the_loop(
    tmp_path: Path, settings: dict[str, object], opset: int
) -> None:
    input = audio(**settings)
    sounds = waves(8000, input.data.sample_rate)
    path = tmp_path / "mel.onnx"
    to_onnx(
        nn.Identity().eval(),
        path,
        torch.from_numpy(sounds[:2]),
        opset=opset,
        preprocess=input.preprocess(),
        inputs=["waveform"],
    )
    (graph,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"waveform": sounds})
    loop = input.preprocess()(torch.from_numpy(sounds)).numpy()
    assert (np.abs(graph - loop) < BOUND).all()
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert kinds <= {"Reshape", "Conv", "Mul", "Add", "Log"}, kinds


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_in_half_precision_the_spectrogram_stays_float32(tmp_path: Path, half: str) -> None:
    input = audio(sample_rate=16000, n_mfcc=10)
    sounds = waves(8000, 16000)
    torch.manual_seed(0)
    model, path, written = ds_cnn(3, width=8).eval(), tmp_path / "fp32.onnx", tmp_path / "half.onnx"
    to_onnx(model, path, torch.from_numpy(sounds[:2]), opset=22, preprocess=input.preprocess(), inputs=["waveform"])
    kept = to_fp16(path, written, {"waveform": sounds}) if half == "fp16" else to_bf16(path, written)
    assert not [found for found in kept if found.node.startswith("preprocess.")]
    graph = onnx.shape_inference.infer_shapes(onnx.load(written)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    short = onnx.TensorProto.FLOAT16 if half == "fp16" else onnx.TensorProto.BFLOAT16
    before = [node for node in graph.node if node.name.startswith("preprocess.")]
    assert [node.op_type for node in before] == ["Reshape", "Conv", "Mul", "Conv", "Add", "Log", "Conv", "Reshape"]
    for node in before:
        assert types[node.output[0]] == onnx.TensorProto.FLOAT
        assert short not in {stored.get(name) for name in node.input}
    convolutions = [node for node in graph.node if node.op_type == "Conv" and node not in before]
    assert len(convolutions) == 9 and all(stored[node.input[1]] == short for node in convolutions)
    if half == "fp16":  # onnxruntime's processor kernels know no bf16
        wide, narrow = (
            onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]).run(None, {"waveform": sounds})[0]
            for each in (path, written)
        )
        np.testing.assert_allclose(narrow, wide, atol=0.02 * np.abs(wide).max())


def test_the_kernels_are_kept_but_each_module_is_its_own() -> None:
    with torch.inference_mode():  # as the loop scores; the export must be able to use them all the same
        first = audio(sample_rate=11025).preprocess()
    second = audio(sample_rate=11025).preprocess()
    assert first is not second and first.dft is second.dft and not first.dft.is_inference()
    second.double()
    assert first.dft.dtype == torch.float32


IDS = np.arange(6)


@pytest.mark.parametrize(
    "augment",
    [
        {"speed": 0.1},
        {"shift_ms": 50.0},
        {"gain_db": 12.0},
        {"noise": "noise.wav", "noise_snr_db": (10.0, 10.0)},
        {"time_mask": 10},
        {"freq_mask": 8},
        {"speed": 0.1, "shift_ms": 50.0, "gain_db": 6.0, "noise": "noise.wav", "time_mask": 5, "freq_mask": 5},
    ],
)
def test_a_view_replays_for_each_sample_by_itself(tmp_path: Path, augment: dict[str, object]) -> None:
    write_wav(tmp_path / "noise.wav", 0.1 * np.random.default_rng(1).standard_normal(3000).clip(-3, 3))
    if "noise" in augment:
        augment = {**augment, "noise": str(tmp_path / "noise.wav")}
    input = audio(sample_rate=8000, augment=augment)
    sounds = waves(8000, 8000)
    whole = input.view({"waveform": sounds}, IDS, 3, 7)["waveform"]
    assert whole.dtype == np.float32 and whole.shape == sounds.shape
    for i in (5, 0, 2):
        alone = input.view({"waveform": sounds[i : i + 1]}, IDS[i : i + 1], 3, 7)["waveform"]
        np.testing.assert_array_equal(alone[0], whole[i])
    other = input.view({"waveform": sounds}, IDS, 4, 7)["waveform"]
    assert (whole != other).any() and (whole != sounds).any()
    np.testing.assert_array_equal(whole[4], 0)  # silence stays silent


def sine(hertz: float, samples: int = 8000, rate: int = 8000) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / rate).astype(np.float32)


def test_speed_changes_pitch_and_length_together() -> None:
    slow, same, fast = at_speed(sine(400)[None].repeat(3, 0), np.array([0.8, 1.0, 1.25]))
    np.testing.assert_allclose(same, sine(400), atol=1e-6)
    np.testing.assert_allclose(slow, sine(320), atol=1e-6)
    np.testing.assert_allclose(fast[:6400], sine(500)[:6400], atol=1e-6)
    assert not fast[6400:].any()


def test_a_faster_sound_does_not_fold_its_highest_tones() -> None:
    assert np.abs(at_speed(sine(3900)[None], np.array([1.25]))).max() < 1e-6


def test_a_shift_brings_zeros_and_keeps_the_rest() -> None:
    sounds = np.arange(1, 4001, dtype=np.float32)[None].repeat(6, 0)
    view = audio(4000, sample_rate=4000, augment={"shift_ms": 10.0}).view({"waveform": sounds}, IDS, 0, 0)["waveform"]
    for row in view:
        by = int(4000 - np.count_nonzero(row)) * (1 if row[0] == 0 else -1)
        assert abs(by) <= 40
        np.testing.assert_array_equal(row, np.pad(sounds[0], 40)[40 - by : 4040 - by])


def test_noise_comes_at_the_ratio_that_is_asked_for(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "noise.wav", 0.1 * np.random.default_rng(1).standard_normal(3000).clip(-3, 3))
    augment = {"noise": str(path), "noise_snr_db": (10.0, 10.0)}
    sounds = waves(8000, 8000)[:3]
    view = audio(sample_rate=8000, augment=augment).view({"waveform": sounds}, IDS[:3], 0, 0)["waveform"]
    added = view.astype(np.float64) - sounds
    ratio = 10 * np.log10((sounds.astype(np.float64) ** 2).mean(1) / (added**2).mean(1))
    np.testing.assert_allclose(ratio, 10, atol=0.01)


def test_masks_empty_a_stretch_and_a_band() -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal((6, 8000)).astype(np.float32)
    masked = audio(sample_rate=8000, augment={"time_mask": 20}).view({"waveform": noise}, IDS, 0, 0)["waveform"]
    silent = (masked == 0).sum(1)
    assert (silent % 160 == 0).all() and silent.max() <= 20 * 160 and silent.max() > 0
    input = audio(sample_rate=8000, n_mels=20, augment={"freq_mask": 6})
    view = input.view({"waveform": noise}, IDS, 0, 0)
    before, after = (input.preprocess()(torch.from_numpy(each)).numpy() for each in (noise, view["waveform"]))
    fallen = (before - after).mean((1, 3))  # [n, bands]
    assert ((fallen > 4).sum(1) <= 6).all() and (fallen > 4).any()


@pytest.mark.parametrize(
    "settings, key",
    [
        ({"n_mels": 200}, "n_mels"),
        ({"augment": {"freq_mask": 41}}, "augment.freq_mask"),
        ({"augment": {"time_mask": 52}}, "augment.time_mask"),
        ({"augment": {"noise": "/nowhere.wav"}}, "augment.noise"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, object], key: str) -> None:
    assert set(audio(8000, **{"sample_rate": 16000, **settings}).mistakes()) == {key}


def test_without_augmentation_a_view_is_the_sound_itself() -> None:
    sounds = waves(4000, 8000)
    np.testing.assert_array_equal(
        audio(4000, sample_rate=8000).view({"waveform": sounds}, IDS, 0, 0)["waveform"], sounds
    )
    assert AudioAugmentation() == AudioData.model_fields["augment"].default


def test_mixed_sounds_are_weighted_sums() -> None:
    a, b = tone(300, 100, 0).astype(np.float32)[None], tone(900, 100, 1).astype(np.float32)[None]
    found = audio(100, sample_rate=8000).mixed({"waveform": a}, {"waveform": b}, np.array([0.75]))["waveform"]
    np.testing.assert_allclose(found, 0.75 * a + 0.25 * b, atol=1e-7)
