"""Forward passes without gradients: logits of raw samples. Batches are halved if the accelerator's memory ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils._pytree import tree_map

from edgekd.base.draws import Ids
from edgekd.data import Split
from edgekd.data.batches import arguments_of
from edgekd.inputs.protocol import Arrays, Input, cut, number_of
from edgekd.models.accelerator import autocast, device_of
from edgekd.models.heads import joined, parts_of
from edgekd.models.memory_format import forward
from edgekd.tasks.protocol import Task

BATCH = 250
T = TypeVar("T")


def logits_of(model: nn.Module, input: Input, raw: Arrays, *, bf16: bool = False) -> Any:
    """The outputs float32 `[n, classes, ...]` of raw samples, computed in halves if the memory ends.

    A network of several tasks may give a tuple of such tensors (edgekd.models.heads).
    """
    return in_halves(lambda part: answers_of(model, input, part, bf16), raw, joined)


@torch.inference_mode()
def answers_of(model: nn.Module, input: Input, raw: Arrays, bf16: bool) -> Any:
    """The logits of a single pass over raw samples, float32 on the processor."""
    where = device_of(model)
    with autocast(where, bf16):
        return tree_map(lambda y: y.float().cpu(), forward(model, arguments_of(input, raw, where)))


def in_halves(compute: Callable[[Arrays], T], raw: Arrays, join: Callable[[list[T]], T]) -> T:
    """`compute(raw)`, or the joined results of both halves if the accelerator's memory ends."""
    try:
        return compute(raw)
    except torch.OutOfMemoryError:
        if number_of(raw) == 1:
            raise
    middle = number_of(raw) // 2
    return join([in_halves(compute, cut(raw, part), join) for part in (slice(middle), slice(middle, None))])


def predict(model: nn.Module, split: Split, ids: Ids, tasks: Sequence[Task]) -> list[npt.NDArray[Any]]:
    """What each task stores (`Task.stored`) of the outputs for unaugmented samples, `[n, ...]`."""
    sizes, found = [task.outputs for task in tasks], []
    for start in range(0, len(ids), BATCH):
        outputs = logits_of(model, split.input, split.get(ids[start : start + BATCH]))
        found.append([task.stored(z.numpy()) for task, z in zip(tasks, parts_of(outputs, sizes), strict=True)])
    return [np.concatenate(own) for own in zip(*found, strict=True)]
