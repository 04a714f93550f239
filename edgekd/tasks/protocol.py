"""Task: a kind of answers, from a network's outputs to the score. A task is one file and one test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.metric import Judged, Metric

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from torch import Tensor

Answers = NDArray[Any]  # [n, ...]


@dataclass(frozen=True)
class Labels:
    """The labels of a batch, int64 `[batch]`. With mix-up the share `1 - lam` belongs to `partner`."""

    hard: Tensor
    partner: Tensor
    lam: Tensor


class Task(Protocol):
    """The functions of a task. They are pure: equal arguments give equal figures in the loop and on a device."""

    @property
    def metric(self) -> Metric:
        """The metric that scores answers."""
        ...

    @property
    def outputs(self) -> int:
        """The size of the network's last axis for this task."""
        ...

    def label_loss(self, z: Tensor, labels: Labels) -> Tensor:
        """The loss against the labels, batch mean; z `[rows, outputs]`."""
        ...

    def divergence(self, expected: Tensor, quantized: Tensor) -> Tensor:
        """The distance of the quantized network's outputs from the float network's, both `[rows, outputs]`, as a loss."""
        ...

    def answer(self, outputs: NDArray[np.float32]) -> Answers:
        """The answer for each sample, `[n, ...]`, from outputs `[n, outputs]`."""
        ...

    def judge(self, answers: Answers, labels: NDArray[np.int64]) -> Judged:
        """Each sample's part of the metric, `[n, k]`."""
        ...

    def parts(self, answers: Answers, labels: NDArray[np.int64]) -> Mapping[str, float]:
        """The figures of subsets of the samples, by name, for example of each class."""
        ...

    def same(self, one: Answers, other: Answers) -> NDArray[np.float64]:
        """The agreement of two networks' answers for each sample, `[n]`, from 0 to 1."""
        ...
