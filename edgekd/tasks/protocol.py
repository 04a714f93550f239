"""Task: the half of a problem that lies behind a network's outputs. A task is one file here and one test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.metric import Judged, Metric

if TYPE_CHECKING:  # importing torch takes seconds, which a command that only reads figures would wait for
    from torch import Tensor

Answers = NDArray[Any]  # [n, ...]


@dataclass(frozen=True)
class Labels:
    """Labels of a batch, int64 `[batch]`; with mix-up a share `1 - lam` belongs to `partner`."""

    hard: Tensor
    partner: Tensor
    lam: Tensor


class Task(Protocol):
    """Pure functions: the same arguments give the same figures in the loop, in the final check and on a device."""

    @property
    def metric(self) -> Metric:
        """How good answers are."""
        ...

    @property
    def outputs(self) -> int:
        """How many numbers of the network's last axis belong to the task."""
        ...

    def label_loss(self, z: Tensor, labels: Labels) -> Tensor:
        """The loss against the labels, batch mean; z `[rows, outputs]`."""
        ...

    def divergence(self, expected: Tensor, quantized: Tensor) -> Tensor:
        """How far answers moved, as a loss; `[rows, outputs]` of the float and of the quantized network."""
        ...

    def answer(self, outputs: NDArray[np.float32]) -> Answers:
        """What is answered for each sample, `[n, ...]`, of outputs `[n, outputs]`."""
        ...

    def judge(self, answers: Answers, labels: NDArray[np.int64]) -> Judged:
        """Each sample's part of the metric, `[n, k]`."""
        ...

    def parts(self, answers: Answers, labels: NDArray[np.int64]) -> Mapping[str, float]:
        """Figures of parts of the samples, by name: of each class."""
        ...

    def same(self, one: Answers, other: Answers) -> NDArray[np.float64]:
        """How much of each sample's answer two networks share, `[n]`, 0 to 1."""
        ...
