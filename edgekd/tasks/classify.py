"""Classify: one class is right for each sample. Code that only concerns classes belongs in this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.intervals import Right, paired_interval, wilson_interval
from edgekd.figures.metric import Judged, Metric
from edgekd.recipe import ClassifyTask
from edgekd.tasks.protocol import Answers, Holds, Labels, Outputs
from edgekd.tasks.rows import OneRow, Rows

if TYPE_CHECKING:
    from torch import Tensor


def judged(right: Right) -> Judged:
    """Each answer's part of top-1, `[n, 1]`: 1 for a right answer, else 0."""
    return np.asarray(right, np.float64)[:, None]


def _right(judged: Judged) -> Right:
    right: Right = judged[:, 0] > 0
    return right


TOP1 = Metric(
    "top-1", "%", "higher",
    value=lambda judged: 100 * float(judged[:, 0].mean()),
    interval=lambda judged: wilson_interval(int(judged[:, 0].sum()), len(judged)),
    paired=lambda reference, judged: paired_interval(_right(reference), _right(judged)),
)  # fmt: skip
"""The share of right answers, with Wilson's interval; differences have Newcombe's interval."""


@dataclass(frozen=True)
class Classify:
    """The task of naming a class: the class of the largest logit is the answer."""

    classes: tuple[str, ...]

    @classmethod
    def of(cls, names: tuple[str, ...], shape: tuple[int, ...], settings: ClassifyTask) -> Classify:
        """The task of a decoded split with classes of these names."""
        return cls(names)

    @property
    def names(self) -> tuple[str, ...]:
        return self.classes

    @property
    def holds(self) -> Holds:
        return "classes"

    @property
    def rows(self) -> Rows:
        return OneRow()

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs,)

    @property
    def metric(self) -> Metric:
        return TOP1

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def label_loss(self, z: Tensor, labels: Labels) -> Tensor:
        """The cross-entropy with the (mixed) labels, batch mean."""
        from torch.nn.functional import cross_entropy

        own = cross_entropy(z.float(), labels.hard, reduction="none")
        partner = cross_entropy(z.float(), labels.partner, reduction="none")
        return (labels.lam * own + (1 - labels.lam) * partner).mean()

    def divergence(self, expected: Tensor, quantized: Tensor) -> Tensor:
        """The divergence KL(expected ‖ quantized), mean of the rows."""
        from torch.nn.functional import kl_div

        return kl_div(quantized.log_softmax(1), expected.log_softmax(1), reduction="batchmean", log_target=True)

    def stored(self, outputs: Outputs) -> Outputs:
        """The logits themselves."""
        return outputs

    def answered(self, stored: Outputs) -> Answers:
        """The number of the class with the largest logit."""
        return np.asarray(stored.argmax(-1))

    def judge(self, answers: Answers, labels: NDArray[np.int64]) -> Judged:
        """Each answer's part of top-1, `[n, 1]`: 1 for a right answer, else 0."""
        return judged(answers == labels)

    def parts(self, answers: Answers, labels: NDArray[np.int64]) -> dict[str, float]:
        """The top-1 of each class that has samples, in percent."""
        right = answers == labels
        return {
            name: round(float(100 * right[labels == i].mean()), 2)
            for i, name in enumerate(self.classes)
            if (labels == i).any()
        }

    def same(self, one: Answers, other: Answers) -> NDArray[np.float64]:
        """1 for each sample where both answers name the same class, else 0."""
        return np.asarray(one == other, np.float64)

    def constant(self, labels: NDArray[np.int64]) -> tuple[str, Answers]:
        """Always the most frequent class."""
        commonest = int(np.bincount(labels).argmax())
        return f"naming {self.classes[commonest]} always", np.full(len(labels), commonest)

    def strata(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels themselves."""
        return labels
