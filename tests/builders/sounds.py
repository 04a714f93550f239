"""Sounds of tests: tones as WAV files, one folder a class."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 8000
TONES = {"low": 400.0, "middle": 1000.0, "high": 2400.0}  # class -> Hz


def tone(hertz: float, samples: int, seed: int) -> NDArray[np.float64]:
    """A tone of a random phase and loudness in a little noise, `[samples]` in -1..1."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / RATE
    pure = np.sin(2 * np.pi * (hertz * time * rng.uniform(0.95, 1.05) + rng.uniform()))
    return rng.uniform(0.05, 0.5) * pure + 0.01 * rng.standard_normal(samples)


def write_wav(path: Path, sound: NDArray[np.float64], *, rate: int = RATE) -> Path:
    """A file of 16 bits of a sound `[samples]` or `[samples, channels]`."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if sound.ndim == 1 else sound.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(sound * 32767).astype("<i2").tobytes())
    return path


def write_tones(folder: Path, of_a_class: int, seed: int, samples: int = 4000) -> Path:
    """A folder a class, with files that differ in length by a tenth."""
    for number, (name, hertz) in enumerate(TONES.items()):
        (folder / name).mkdir(parents=True)
        for i in range(of_a_class):
            sound = tone(hertz, samples + (i % 3 - 1) * samples // 10, seed + 1000 * number + i)
            write_wav(folder / name / f"{i}.wav", sound)
    return folder


BACKGROUND = "_background_"


def noise(samples: int, seed: int) -> NDArray[np.float64]:
    """What lies between tones: noise of a random loudness."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.003, 0.1) * rng.standard_normal(samples).clip(-4, 4)


def write_words(folder: Path, of_a_class: int, seed: int) -> Path:
    """The folders of `write_tones` with one of the background."""
    write_tones(folder, of_a_class, seed)
    (folder / BACKGROUND).mkdir()
    for i in range(of_a_class):
        write_wav(folder / BACKGROUND / f"{i}.wav", noise(4000, seed + 9000 + i))
    return folder


def spoken(names: Sequence[str], seed: int, between: int = 12_000) -> tuple[NDArray[np.float64], list[float]]:
    """A stream of tones with background before, between and behind them, and the seconds at which each begins."""
    parts, begins, at = [noise(between, seed)], [], between
    for number, name in enumerate(names):
        begins.append(at / RATE)
        parts += [tone(TONES[name], 4000, seed + number), noise(between, seed + 100 + number)]
        at += 4000 + between
    return np.concatenate(parts), begins
