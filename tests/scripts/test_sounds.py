"""What a sound is, in training and in the run.py that ships: the same samples of every kind of file, or a refusal of both."""

from __future__ import annotations

import inspect
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgekd.inputs import sound
from edgekd.inputs.sound import decode_sound
from edgekd.recipe import AudioReading
from edgekd.scripts import run

RNG = np.random.default_rng(5)
ONE, TWO = RNG.uniform(-1, 1, 700), RNG.uniform(-1, 1, (700, 2))
TABLE: dict[str, Any] = {
    "name": "waveform",
    "dtype": "float32",
    "shape": ["batch", 700],
    "layout": "",
    "sample_rate": 8000,
}


def written(values: np.ndarray, form: str, subtype: str, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, values, rate, format=form, subtype=subtype)
    return file.getvalue()


KINDS = {
    "8 bits": written(ONE, "WAV", "PCM_U8"),
    "16 bits": written(ONE, "WAV", "PCM_16"),
    "24 bits": written(ONE, "WAV", "PCM_24"),
    "32 bits": written(ONE, "WAV", "PCM_32"),
    "float": written(ONE, "WAV", "FLOAT"),
    "double": written(ONE, "WAV", "DOUBLE"),
    "extended header": written(ONE, "WAVEX", "PCM_16"),
    "24 bits with an extended header": written(ONE, "WAVEX", "PCM_24"),
    "mu-law": written(ONE, "WAV", "ULAW"),
    "flac": written(ONE, "FLAC", "PCM_16"),
    "ogg": written(0.5 * ONE, "OGG", "VORBIS"),
}


def reading(**settings: Any) -> AudioReading:
    return AudioReading.model_validate({"input": "audio", "sample_rate": 8000, **settings})


def by_run_py(folder: Path, data: bytes, **keys: Any) -> np.ndarray:
    (folder / "sound.wav").write_bytes(data)
    return run.read_sound(str(folder / "sound.wav"), {**TABLE, **keys})[0]


@pytest.mark.parametrize("kind", KINDS)
def test_both_read_the_samples_that_libsndfile_reads(tmp_path: Path, kind: str) -> None:
    expected, rate = soundfile.read(io.BytesIO(KINDS[kind]), dtype="float32")
    found, remarks = decode_sound(KINDS[kind], reading())
    assert rate == 8000 and found.dtype == np.float32 and not remarks
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(by_run_py(tmp_path, KINDS[kind]), expected)


def test_both_hold_the_same_lines() -> None:
    for name in ("read_wav", "sound_problem", "one_channel"):
        assert inspect.getsource(getattr(run, name)) == inspect.getsource(getattr(sound, name))


@pytest.mark.parametrize("mono", ["mean", "left", "right"])
def test_of_two_channels_both_make_the_same_one(tmp_path: Path, mono: str) -> None:
    data = written(TWO, "WAV", "PCM_16")
    left, right = soundfile.read(io.BytesIO(data), dtype="float32")[0].T
    expected = {"mean": (left + right) / 2, "left": left, "right": right}[mono]
    np.testing.assert_array_equal(decode_sound(data, reading(mono=mono))[0], expected)
    np.testing.assert_array_equal(by_run_py(tmp_path, data, mono=mono), expected)


def damaged(change: str) -> bytes:
    data = bytearray(KINDS["16 bits"])
    at = data.index(b"fmt ") + 8
    if change == "short":
        return bytes(data[:-100])
    if change == "no samples":
        return written(ONE[:0], "WAV", "PCM_16")
    if change == "no data":
        return bytes(data[: data.index(b"data")])
    if change == "no channels":
        data[at + 2 : at + 4] = struct.pack("<H", 0)
    if change == "block":
        data[at + 12 : at + 14] = struct.pack("<H", 3)
    return bytes(data)


REFUSED = {
    "short": (damaged("short"), "bytes of samples, the file holds"),
    "no samples": (damaged("no samples"), "no samples"),
    "no data": (damaged("no data"), "header is damaged"),
    "no channels": (damaged("no channels"), "header is damaged: 0 channels"),
    "another block": (damaged("block"), "header is damaged: 1 channels, 8000 Hz, 3 bytes"),
    "empty": (b"", "no sound that soundfile reads"),
    "another scale": (written(np.array([30000.0, 0.0]), "WAV", "FLOAT"), "its values reach 30000"),
    "a text": (b"RIFF is a word, and this is none of it", "no sound that soundfile reads"),
    "NaN": (written(np.array([0.0, np.nan, 0.0]), "WAV", "FLOAT"), "NaN or infinite"),
    "infinity": (written(np.array([0.0, np.inf, 0.0]), "WAV", "FLOAT"), "NaN or infinite"),
    "two channels": (written(TWO, "WAV", "PCM_16"), "it has 2 channels; set data.mono"),
    "six channels": (written(RNG.uniform(-1, 1, (70, 6)), "WAV", "PCM_16"), "it has 6 channels; give files of one"),
    "another rate": (written(ONE, "WAV", "PCM_16", 16000), "16000 Hz"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_both_refuse_what_is_no_such_sound(tmp_path: Path, kind: str) -> None:
    data, why = REFUSED[kind]
    with pytest.raises(ValueError) as here:
        decode_sound(data, reading())
    with pytest.raises(run.Failure) as there:
        by_run_py(tmp_path, data)
    for text in (str(here.value), str(there.value)):
        assert why in text and "\n" not in text and "0x" not in text


def test_six_channels_are_refused_with_mono_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="6 channels"):
        decode_sound(REFUSED["six channels"][0], reading(mono="mean"))
    with pytest.raises(run.Failure, match="6 channels"):
        by_run_py(tmp_path, REFUSED["six channels"][0], mono="mean")


@pytest.mark.parametrize("samples", [300, 700, 1000])
def test_both_bring_a_sound_to_the_length_of_the_graph(tmp_path: Path, samples: int) -> None:
    values = RNG.uniform(-1, 1, samples)
    data = written(values, "WAV", "FLOAT")
    expected = np.concatenate([values, np.zeros(700)])[:700].astype(np.float32)
    found, remarks = decode_sound(data, reading(seconds=700 / 8000))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(by_run_py(tmp_path, data), expected)
    told = {300: "are shorter than 0.0875 s and end in zeros", 1000: "are longer than 0.0875 s and were cut"}
    assert remarks == ((told[samples],) if samples in told else ())


def test_silence_is_told() -> None:
    assert decode_sound(written(np.zeros(700), "WAV", "PCM_16"), reading())[1] == ("are silent (all zeros)",)


def test_another_rate_is_resampled_where_the_recipe_says_so() -> None:
    time = np.arange(1600) / 16000
    data = written(0.5 * np.sin(2 * np.pi * 500 * time), "WAV", "FLOAT", 16000)
    found, remarks = decode_sound(data, reading(resample=True))
    assert len(found) == 800 and remarks == ("have another rate and were resampled to 8000 Hz",)
    expected = 0.5 * np.sin(2 * np.pi * 500 * np.arange(800) / 8000)
    assert np.abs(found - expected)[100:-100].max() < 1e-3


@pytest.mark.parametrize(
    "given, told",
    [
        (np.zeros(5, np.int32), "it is int32"),
        (np.zeros((2, 2, 2)), "it is float64 [2, 2, 2]"),
        (np.full(5, 30000.0), "divide values of 16 bits by 32768"),
        (np.zeros(0), "no samples"),
    ],
)
def test_an_array_of_another_kind_is_refused(given: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError) as refused:
        decode_sound(given, reading())
    assert told in str(refused.value)


def test_int16_arrays_have_the_scale_of_files() -> None:
    values = np.array([-32768, 0, 16384], np.int16)
    np.testing.assert_array_equal(decode_sound(values, reading())[0], np.array([-1, 0, 0.5], np.float32))


@pytest.mark.parametrize("kind", ["8 bits", "24 bits", "extended header", "double"])
def test_damaged_bytes_end_in_a_refusal_of_both(tmp_path: Path, kind: str) -> None:
    """Any exception of another kind would be a traceback on a device."""
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(KINDS[kind])
        for _ in range(int(rng.integers(1, 5))):
            data[int(rng.integers(0, 60))] = int(rng.integers(0, 256))
        cut = bytes(data[: int(rng.integers(0, len(data)))]) if rng.random() < 0.3 else bytes(data)
        outcomes = []
        for reader in (
            lambda given=cut: decode_sound(given, reading(seconds=700 / 8000))[0],
            lambda given=cut: by_run_py(tmp_path, given),
        ):
            try:
                outcomes.append(reader())
            except (ValueError, run.Failure):
                outcomes.append(None)
        here, there = outcomes
        assert (here is None) == (there is None)
        if here is not None:
            np.testing.assert_array_equal(here, there)
