"""Task: a kind of answers, from a network's outputs to the score. A task is one file and one test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.metric import Judged, Metric
from edgekd.tasks.rows import Rows

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from torch import Tensor

Answers = NDArray[Any]  # [n, ...]
Outputs = NDArray[np.float32]  # [n, outputs], or of a dense task [n, outputs, h, w]
Targets = NDArray[Any]  # [n, ...]
Holds = Literal["classes", "labels", "values"]
"""What a row of outputs holds: logits over classes, a logit for each label, or values."""


@dataclass(frozen=True)
class Labels:
    """The targets of a batch, `[batch, ...]`. With mix-up the share `1 - lam` belongs to `partner`."""

    hard: Tensor
    partner: Tensor
    lam: Tensor


class Task(Protocol):
    """The functions of a task. They are pure: equal arguments give equal figures in the loop and on a device."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs: of classes, labels or values."""
        ...

    @property
    def holds(self) -> Holds:
        """What a row of outputs holds, which decides the losses that fit."""
        ...

    @property
    def metric(self) -> Metric:
        """The metric that scores answers."""
        ...

    @property
    def outputs(self) -> int:
        """The size of the network's second axis for this task."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample's outputs."""
        ...

    @property
    def rows(self) -> Rows:
        """Where the losses read the outputs."""
        ...

    def label_loss(self, z: Tensor, labels: Labels) -> Tensor:
        """The loss against the labels, batch mean; z `[batch, outputs, ...]`."""
        ...

    def divergence(self, expected: Tensor, quantized: Tensor) -> Tensor:
        """The distance of the quantized network's outputs from the float network's, both `[rows, outputs]`, as a loss."""
        ...

    def stored(self, outputs: Outputs) -> NDArray[Any]:
        """What a scoring stage stores of outputs: the outputs themselves, or the answers where outputs are large."""
        ...

    def answered(self, stored: NDArray[Any]) -> Answers:
        """The answer for each sample, `[n, ...]`, from what is stored."""
        ...

    def judge(self, answers: Answers, labels: Targets) -> Judged:
        """Each sample's part of the metric, `[n, k]`."""
        ...

    def parts(self, answers: Answers, labels: Targets) -> Mapping[str, float]:
        """Further figures by name, for example of each class."""
        ...

    def same(self, one: Answers, other: Answers) -> NDArray[np.float64]:
        """The agreement of two networks' answers for each sample, `[n]`, from 0 to 1."""
        ...

    def constant(self, labels: Targets) -> tuple[str, Answers]:
        """The best answers that are the same for every sample, and what they are in words."""
        ...

    def strata(self, labels: Targets) -> NDArray[np.int64] | None:
        """The class of each sample, `[n]`; None where a sample has no single class."""
        ...
