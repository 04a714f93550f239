"""Draws: random numbers that are hashes of their coordinates. Each can be drawn again alone, in any order.

No generator is advanced: a number depends only on its id and its coordinates, for example the seed and the view. This is
a counter-based generator, as in Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". The mixing function
is that of SplitMix64 (Steele et al. 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def _splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(ids: Ids, *coordinates: int) -> Floats:
    """A number in [0, 1) for each id: the hash of the id and the coordinates (seed, view, index of the draw)."""
    with np.errstate(over="ignore"):
        state = ids.astype(np.uint64)
        for coordinate in coordinates:
            state = _splitmix64(state) ^ _splitmix64(np.full(1, coordinate, np.uint64))
        return (_splitmix64(state) >> np.uint64(11)).astype(np.float64) / 2.0**53


def integers(ids: Ids, high: int, *coordinates: int) -> Ids:
    """A whole number in 0..high-1 for each id."""
    return (uniform(ids, *coordinates) * high).astype(np.int64)


def permutation(n: int, *coordinates: int) -> Ids:
    """A random order of 0..n-1 that depends on the coordinates only (seed, epoch)."""
    return np.argsort(uniform(np.arange(n), *coordinates), kind="stable")
