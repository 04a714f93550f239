"""Jitter: pictures of another brightness, contrast and saturation, in whole numbers, so the same bits everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekd.base.draws import Ids, integers
from edgekd.inputs.picture import Pixels

SHIFT = 10
UNIT = 1 << SHIFT  # the factor 1; factors are whole numbers of 1/1024
BRIGHTNESS, CONTRAST, SATURATION = 7, 8, 9  # the numbers of the draws, beside those of the other augmentations
Factors = NDArray[np.int64]  # [n], in units of 1/1024
Whole = NDArray[np.int32]  # half the memory of int64, and enough for 255 times a factor or a weight
PIECE = 1 << 18  # values that are changed at once, so that they stay in a processor's cache
LUMA = (19595, 38470, 7471)  # of 65536


def jittered(images: Pixels, ids: Ids, share: float, view: int, seed: int) -> Pixels:
    """Pictures uint8 `[n, h, w, channels]` whose brightness, contrast and saturation differ by up to `share` of them.

    Each picture has three factors of its own in 1 - share .. 1 + share, which its id, the view and the seed decide. The
    steps are those of torchvision's `ColorJitter`, always in this order. Pictures that have not three channels keep
    their saturation.
    """
    most = round(share * UNIT)
    draws = (BRIGHTNESS, CONTRAST, SATURATION)
    factors = [UNIT - most + integers(ids, 2 * most + 1, seed, view, draw) for draw in draws]
    at_once = max(1, PIECE // images[0].size) if len(images) else 1
    pieces = [slice(start, start + at_once) for start in range(0, len(images), at_once)]
    found = np.empty_like(images)
    for piece in pieces:
        brightness, contrast, saturation = (of[piece] for of in factors)
        changed = contrasted(brightened(images[piece], brightness), contrast)
        found[piece] = saturated(changed, saturation) if images.shape[3] == 3 else changed
    return found


def brightened(images: Pixels, factors: Factors) -> Pixels:
    """Each picture times its factor."""
    return _away(np.zeros((1, 1, 1, 1), np.int32), images, factors)


def contrasted(images: Pixels, factors: Factors) -> Pixels:
    """The difference of each picture from its mean grey, times its factor."""
    _, height, width, _ = images.shape
    pixels = height * width
    mean = (_grey(images).sum((1, 2, 3), dtype=np.int64) + pixels // 2) // pixels
    return _away(mean.astype(np.int32)[:, None, None, None], images, factors)


def saturated(images: Pixels, factors: Factors) -> Pixels:
    """The difference of each pixel from its grey, times its picture's factor."""
    return _away(_grey(images), images, factors)


def _grey(images: Pixels) -> Whole:
    """The grey of each pixel, `[n, h, w, 1]`: of three channels the luma of ITU-R 601-2 as Pillow computes it, else the mean."""
    channels = images.shape[3]
    weights = LUMA if channels == 3 else (1,) * channels
    whole = np.zeros(images.shape[:3], np.int32)
    for channel, weight in enumerate(weights):
        whole += images[..., channel] * np.int32(weight)
    return np.asarray((whole + sum(weights) // 2) // sum(weights), np.int32)[..., None]


def _away(origin: Whole, images: Pixels, factors: Factors) -> Pixels:
    """The pictures with their difference from `origin` times a factor, rounded and cut to 0..255."""
    difference = (images - origin) * factors.astype(np.int32)[:, None, None, None]
    return np.clip(origin + ((difference + UNIT // 2) >> SHIFT), 0, 255).astype(np.uint8)
