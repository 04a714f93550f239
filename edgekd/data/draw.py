"""drawn: some samples of a split. Where each sample has a class, each class keeps its share.

A seed decides, not the order of the file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekd.base.draws import Ids, permutation, uniform

WITHIN, BETWEEN, DRAWN = (
    0x5747,
    0xBE7E,
    0xD3A3,
)  # coordinates of their own, so that the draw shares no random number with any view


def drawn(classes: npt.NDArray[np.int64] | None, count: int, n: int, seed: int) -> Ids:
    """The numbers of `n` of `count` samples in rising order; where each sample has a class, each class in its share."""
    if classes is not None:
        return stratified(classes, n, seed)
    return np.sort(permutation(count, seed, DRAWN)[:n])


def stratified(labels: npt.NDArray[np.int64], n: int, seed: int) -> Ids:
    """`n` ids in rising order, or all ids of a smaller split. A class of share p gets p · n ids, off by less than 1.

    Systematic sampling: each class is shuffled and laid out evenly over 0..1 from a random start. Then the first `n` of
    all samples are taken. So the draw for a smaller `n` is a subset of the draw for a larger `n`.
    """
    order = permutation(len(labels), seed, WITHIN)
    counts = np.bincount(labels)
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, shuffled within
    first = np.repeat(np.cumsum(counts) - counts, counts)
    start = uniform(np.arange(len(counts)), seed, BETWEEN)
    place = np.arange(len(labels)) - first + np.repeat(start, counts)
    drawn = order[np.argsort(place / np.repeat(counts, counts), kind="stable")[:n]]
    return np.sort(drawn)
