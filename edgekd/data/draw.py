"""stratified: some samples of a split, each class in its share, chosen by a seed and not by the order of the file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekd.base.draws import Ids, permutation, uniform

WITHIN, BETWEEN = 0x5747, 0xBE7E  # coordinates of their own, so that the draw shares no random number with any view


def stratified(labels: npt.NDArray[np.int64], n: int, seed: int) -> Ids:
    """`n` ids in rising order, all where there are no more; a class of share p gets p · n of them, less or more than one.

    Systematic sampling: each class is shuffled and laid out evenly over 0..1 from a random start, and the first `n` of all are
    taken. So what is drawn for a smaller `n` is a part of what is drawn for a larger one.
    """
    order = permutation(len(labels), seed, WITHIN)
    counts = np.bincount(labels)
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, shuffled within
    first = np.repeat(np.cumsum(counts) - counts, counts)
    start = uniform(np.arange(len(counts)), seed, BETWEEN)
    place = np.arange(len(labels)) - first + np.repeat(start, counts)
    drawn = order[np.argsort(place / np.repeat(counts, counts), kind="stable")[:n]]
    return np.sort(drawn)
