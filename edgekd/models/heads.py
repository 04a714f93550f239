"""Heads: a network's outputs for several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgekd.errors import ModelError


def parts_of(outputs: Tensor | Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """The outputs of the first tasks, of which each has `sizes` outputs.

    A network gives a tuple with a tensor for each task, or one tensor where the tasks lie side by side on axis 1.
    """
    if not isinstance(outputs, Tensor):
        return tuple(outputs)[: len(sizes)]
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    if len(sizes) > 1 and outputs.shape[1] < ends[-1]:
        raise ModelError(f"the model gives {outputs.shape[1]} outputs; the tasks read {' + '.join(map(str, sizes))}")
    return tuple(outputs[:, end - size : end] for size, end in zip(sizes, ends, strict=True))


def joined(batches: Sequence[Any]) -> Any:
    """The outputs of batches, tensors or tuples of tensors, as those of one batch."""
    first = batches[0]
    return torch.cat(list(batches)) if isinstance(first, Tensor) else tuple(map(torch.cat, zip(*batches, strict=True)))
