"""Views: augmentation as a pure function of (sample id, view number, seed), so that it replays exactly.

Teacher and student must see the same picture, whatever the batch order, the number of workers or processes. So no
generator is advanced: every random number is a hash of its coordinates (a counter-based generator, as in Salmon et
al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the mixing function is SplitMix64's, Steele et al. 2014).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from edgekd.data.sources import Pixels
from edgekd.recipe import Augmentation

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Batch(NamedTuple):
    """What training sees of some samples in one view.

    images: uint8 `[n, h, w, channels]`; labels: int64 `[n]` or `[n, tasks]`; with mix-up the label is `labels` with probability
    `lam` (float64 `[n]`) and `partner_labels` otherwise, without it `lam` is 1 everywhere.
    """

    images: Pixels
    labels: npt.NDArray[np.int64]
    partner_labels: npt.NDArray[np.int64]
    lam: Floats


def _splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(ids: Ids, *coordinates: int) -> Floats:
    """One number in [0, 1) for each id: the hash of the id and the coordinates (seed, view, which draw)."""
    with np.errstate(over="ignore"):
        state = ids.astype(np.uint64)
        for coordinate in coordinates:
            state = _splitmix64(state) ^ _splitmix64(np.full(1, coordinate, np.uint64))
        return (_splitmix64(state) >> np.uint64(11)).astype(np.float64) / 2.0**53


def integers(ids: Ids, high: int, *coordinates: int) -> Ids:
    """One whole number in 0..high-1 for each id."""
    return (uniform(ids, *coordinates) * high).astype(np.int64)


def permutation(n: int, *coordinates: int) -> Ids:
    """An order of 0..n-1 that depends on the coordinates only (seed, epoch)."""
    return np.argsort(uniform(np.arange(n), *coordinates), kind="stable")


@dataclass(frozen=True)
class Views:
    """Augmented views of a split: `views(ids, number)` gives a Batch.

    get: ids to pixels, `[n, h, w, channels]`; labels: `[samples]` of the whole split, or `[samples, tasks]`; ids: those that mix-up may pick
    a partner from; fill: the colour that cut-out paints, 0..1 per channel.
    """

    get: Callable[[Ids], Pixels]
    labels: npt.NDArray[np.int64]
    ids: Ids
    augment: Augmentation
    seed: int
    fill: tuple[float, ...] = (0.5,)

    def __call__(self, ids: Ids, view: int) -> Batch:
        images, labels = self._spatial(ids, view), self.labels[ids]
        if not self.augment.mixup:
            return Batch(images, labels, labels, np.ones(len(ids)))
        partners = self.ids[integers(ids, len(self.ids), self.seed, view, 5)]
        alpha = self.augment.mixup
        lam = betaincinv(alpha, alpha, uniform(ids, self.seed, view, 6))
        lam = np.maximum(lam, 1 - lam)  # the sample itself outweighs its partner
        weight = lam.astype(np.float32)[:, None, None, None]
        mixed = weight * images + (1 - weight) * self._spatial(partners, view)
        # Rounded back to bytes: what teacher and student see is an image as the device will see one.
        return Batch(np.rint(mixed).astype(np.uint8), labels, self.labels[partners], lam)

    def _spatial(self, ids: Ids, view: int) -> Pixels:
        images = self.get(ids)
        n, height, width, _ = images.shape
        if pad := self.augment.crop_padding:
            images = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        rows = np.arange(height) + integers(ids, 2 * pad + 1, self.seed, view, 0)[:, None]
        columns = np.arange(width) + integers(ids, 2 * pad + 1, self.seed, view, 1)[:, None]
        if self.augment.flip:
            flipped = uniform(ids, self.seed, view, 2) < 0.5
            columns = np.where(flipped[:, None], columns[:, ::-1], columns)
        if pad or self.augment.flip:
            images = images[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        if side := self.augment.cutout:
            images = self._cut_out(images, ids, view, side)
        return images

    def _cut_out(self, images: Pixels, ids: Ids, view: int, side: int) -> Pixels:
        _, height, width, channels = images.shape
        top = integers(ids, height, self.seed, view, 3)[:, None] - side // 2
        left = integers(ids, width, self.seed, view, 4)[:, None] - side // 2
        rows, columns = np.arange(height), np.arange(width)
        inside = ((rows >= top) & (rows < top + side))[:, :, None] & ((columns >= left) & (columns < left + side))[
            :, None, :
        ]
        colour = np.rint(np.broadcast_to(self.fill, channels) * 255).astype(np.uint8)
        return np.where(inside[..., None], colour, images)
