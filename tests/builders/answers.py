"""Samples of tests whose answers are no classes: discs with masks, tones that sound together, and dots that grow."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tests.builders.pictures import png
from tests.builders.sounds import RATE, TONES, tone, write_wav

SIDE = 32  # of a picture, in pixels


def disc(rng: np.random.Generator, radius: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A bright disc on grey noise `[32, 32, 1]`, and its mask of 0 and 1 `[32, 32]`."""
    y, x = rng.integers(8, SIDE - 8, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    mask = ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).astype(np.uint8)
    noise = rng.integers(0, 120, (SIDE, SIDE), dtype=np.uint8)
    return (noise + 110 * mask)[:, :, None].astype(np.uint8), mask


def write_discs(path: Path, n: int, seed: int) -> Path:
    """Parquet with the columns image and mask, and in `radius` the disc's radius in pixels."""
    rng = np.random.default_rng(seed)
    radii = rng.uniform(3, 8, n)
    found = [disc(rng, radius) for radius in radii]
    columns = {
        name: [{"bytes": png(pixels.squeeze()), "path": None} for pixels in pictures]
        for name, pictures in zip(("image", "mask"), zip(*found, strict=True), strict=True)
    }
    pq.write_table(pa.table({**columns, "radius": radii}), path)
    return path


def chord(names: list[str], samples: int, seed: int) -> NDArray[np.float64]:
    """The tones of these names together `[samples]`: noise alone for none."""
    noise = 0.01 * np.random.default_rng(seed).standard_normal(samples)
    parts = [tone(TONES[name], samples, seed + i) for i, name in enumerate(names, start=1)]
    return np.sum([noise, *parts], 0) / max(1, len(parts))


def write_chords(folder: Path, n: int, seed: int) -> Path:
    """WAVs of half a second, and sounds.csv with their paths and the names of the tones that they hold."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with open(folder / "sounds.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "labels"])
        for number in range(n):
            names = [name for name in TONES if rng.random() < 0.5]
            write_wav(folder / f"{number}.wav", chord(names, RATE // 2, 10 * (seed + number)))
            writer.writerow([f"{number}.wav", "; ".join(names)])
    return folder / "sounds.csv"
