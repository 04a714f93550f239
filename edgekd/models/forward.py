"""Passes without gradients: logits of pictures, in halves where the accelerator's memory ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd.data import Split
from edgekd.data.batches import to_tensor
from edgekd.models.accelerator import autocast, device_of
from edgekd.models.memory_format import forward
from edgekd.recipe import Data

BATCH = 250
Images = npt.NDArray[np.uint8]
T = TypeVar("T")


def logits_of(model: nn.Module, images: Images, data: Data, *, bf16: bool = False) -> torch.Tensor:
    """Logits float32 `[n, classes]` of uint8 images `[n, h, w, channels]`; in halves where the memory ends."""
    return in_halves(lambda part: answers_of(model, part, data, bf16), images, torch.cat)


@torch.inference_mode()
def answers_of(model: nn.Module, images: Images, data: Data, bf16: bool) -> torch.Tensor:
    """One pass, float32 on the processor; images uint8 `[n, h, w, channels]`."""
    where = device_of(model)
    with autocast(where, bf16):
        return forward(model, to_tensor(images, data, where)).float().cpu()  # type: ignore[no-any-return]


def in_halves(compute: Callable[[Images], T], images: Images, join: Callable[[list[T]], T]) -> T:
    """`compute(images)`; where the accelerator's memory ends, that of both halves, joined."""
    try:
        return compute(images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    middle = len(images) // 2
    return join([in_halves(compute, part, join) for part in (images[:middle], images[middle:])])


def predict(model: nn.Module, split: Split, ids: npt.NDArray[np.int64], data: Data) -> npt.NDArray[np.float32]:
    """Logits of unaugmented samples, float32 `[n, classes]`."""
    starts = range(0, len(ids), BATCH)
    return np.concatenate([logits_of(model, split.get(ids[start : start + BATCH]), data).numpy() for start in starts])
