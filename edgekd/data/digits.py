"""The data of the built-in demo: scikit-learn's handwritten digits, 1,797 scans of 8x8 pixels.

They ship with that package, so that the demo needs no download.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

TEST_SHARE = 5  # every 5th sample


def load(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], tuple[str, ...]]:
    """Images uint8 `[n, 8, 8, 1]`, labels `[n]` and class names of `split`, "train" (1,438) or "test" (359)."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    in_test = np.arange(len(pixels)) % TEST_SHARE == TEST_SHARE - 1
    chosen = in_test if split == "test" else ~in_test
    return pixels[chosen], bunch.target[chosen].astype(np.int64), tuple(str(name) for name in bunch.target_names)
