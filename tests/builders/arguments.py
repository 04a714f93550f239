"""Pictures as a training loop reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.data.batches import arguments_of
from edgekd.inputs import Image
from edgekd.inputs.image import INPUT


def argument(pixels: NDArray[Any], mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)) -> torch.Tensor:
    """A network's argument, float `[n, channels, h, w]`, for uint8 `[n, h, w, channels]`."""
    height, width, channels = pixels.shape[1:]
    (only,) = arguments_of(
        Image((height, width, channels), tuple(mean), tuple(std)), {INPUT: np.asarray(pixels)}, torch.device("cpu")
    )
    return only
