"""Table views: rows as a training view changes them. All numbers are drawn by edgekd.base.draws, so a view replays.

A swapped value is one that the column has in train, as edgekd.inputs.columns keeps them. So a view needs no other row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from edgekd.base.draws import Ids, uniform
from edgekd.inputs.columns import Category, Number
from edgekd.recipe import TableAugmentation

NOISE, NUMBERS, CATEGORIES = 11, 12, 13  # coordinates of the draws, before the number of the column


def changed_numbers(
    values: npt.NDArray[np.float32],
    numbers: tuple[Number, ...],
    augment: TableAugmentation,
    ids: Ids,
    view: int,
    seed: int,
) -> npt.NDArray[np.float32]:
    """Numbers `[n, numbers]` after swap and noise, in this order. A value that is lacking gets no noise."""
    changed = values.copy()
    for at, number in enumerate(numbers):
        if augment.swap:
            swapped = uniform(ids, seed, view, NUMBERS, at, 0) < augment.swap
            place = uniform(ids, seed, view, NUMBERS, at, 1) * (number.present + number.lacking)
            sample = np.array([*number.sample, np.nan], np.float32)
            drawn = sample[np.minimum(place * len(number.sample) / number.present, len(number.sample)).astype(np.int64)]
            changed[:, at] = np.where(swapped, drawn, changed[:, at])
        if augment.noise:
            normal = ndtri(np.maximum(uniform(ids, seed, view, NOISE, at), 2.0**-54))
            changed[:, at] += (augment.noise * number.std * normal).astype(np.float32)
    return changed


def changed_codes(
    codes: npt.NDArray[np.int64],
    categories: tuple[Category, ...],
    augment: TableAugmentation,
    ids: Ids,
    view: int,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Codes `[n, categories]` after swap."""
    changed = codes.copy()
    for at, category in enumerate(categories):
        if augment.swap:
            swapped = uniform(ids, seed, view, CATEGORIES, at, 0) < augment.swap
            place = uniform(ids, seed, view, CATEGORIES, at, 1) * sum(category.counts)
            drawn = np.searchsorted(np.cumsum(category.counts), place, side="right")
            changed[:, at] = np.where(swapped, drawn, changed[:, at])
    return changed
