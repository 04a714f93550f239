"""Sounds of tests: tones as WAV files, one folder a class."""

from __future__ import annotations

import wave
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
