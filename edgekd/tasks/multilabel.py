"""Multilabel: each label is right or wrong for a sample, independently of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.metric import Judged, Metric
from edgekd.recipe import MultilabelTask
from edgekd.tasks.protocol import Answers, Holds, Labels, Outputs
from edgekd.tasks.rows import OneRow, Rows

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from torch import Tensor

THRESHOLD = 0.5
Targets = NDArray[np.float32]


def average_precisions(judged: Judged) -> NDArray[np.float64]:
    """The average precision of each label that some sample has, in percent: area under precision over recall, in steps.

    judged: `[n, 2 labels]`, probabilities and then targets. Samples of one probability are one step, because an int8 network
    gives many samples the same.
    """
    n, labels = len(judged), judged.shape[1] // 2
    found = []
    for score, target in zip(judged[:, :labels].T, judged[:, labels:].T, strict=True):
        if not target.any():
            continue
        order = np.argsort(-score, kind="stable")
        falling, positive = -score[order], target[order] > 0
        last = np.searchsorted(falling, falling, side="right")  # how many samples are at least as probable
        precision = np.append(0, np.cumsum(positive))[last] / last
        found.append(100 * float(precision[positive].mean()))
    return np.array(found if n else [], np.float64)


def mean_average_precision(judged: Judged) -> float:
    """The mean of the labels' average precision, in percent; 0 without any label."""
    found = average_precisions(judged)
    return float(found.mean()) if len(found) else 0.0


MAP = Metric("mAP", "%", "higher", value=mean_average_precision)
"""The mean over labels of the average precision, which needs no threshold."""


@dataclass(frozen=True)
class Multilabel:
    """The task of naming every label of a sample: the sigmoid of a logit is the label's probability."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: tuple[str, ...], shape: tuple[int, ...], settings: MultilabelTask) -> Multilabel:
        """The task of a decoded split with labels of these names."""
        return cls(names)

    @property
    def holds(self) -> Holds:
        return "labels"

    @property
    def rows(self) -> Rows:
        return OneRow()

    @property
    def metric(self) -> Metric:
        return MAP

    @property
    def outputs(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs,)

    def label_loss(self, z: Tensor, labels: Labels) -> Tensor:
        """The binary cross-entropy with the (mixed) labels, summed over labels, batch mean."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        lam = labels.lam[:, None]
        target = lam * labels.hard + (1 - lam) * labels.partner
        return binary_cross_entropy_with_logits(z.float(), target, reduction="none").sum(1).mean()

    def divergence(self, expected: Tensor, quantized: Tensor) -> Tensor:
        """The binary divergence KL(expected ‖ quantized), summed over labels, mean of the samples."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        p = expected.sigmoid()
        both = (binary_cross_entropy_with_logits(z, p, reduction="none") for z in (quantized, expected))
        return (next(both) - next(both)).sum(1).mean()

    def stored(self, outputs: Outputs) -> Outputs:
        """The logits themselves."""
        return outputs

    def answered(self, stored: Outputs) -> Answers:
        """The probability of each label, `[n, labels]`."""
        return np.asarray(0.5 * (1 + np.tanh(0.5 * stored.astype(np.float64))))  # the sigmoid, which does not overflow

    def judge(self, answers: Answers, labels: Targets) -> Judged:
        """Each sample's probabilities and targets, `[n, 2 labels]`."""
        return np.concatenate([answers, labels], 1).astype(np.float64)

    def parts(self, answers: Answers, labels: Targets) -> dict[str, float]:
        """The average precision of each label that some sample has, in percent."""
        named = [name for name, some in zip(self.names, np.asarray(labels.any(0)), strict=True) if some]
        found = average_precisions(self.judge(answers, labels))
        return {name: round(float(value), 2) for name, value in zip(named, found, strict=True)}

    def same(self, one: Answers, other: Answers) -> NDArray[np.float64]:
        """The share of labels that both find likelier than not, or both not."""
        return np.asarray(((one > THRESHOLD) == (other > THRESHOLD)).mean(1), np.float64)

    def constant(self, labels: Targets) -> tuple[str, Answers]:
        """The share of samples that have each label."""
        return "each label's share of all samples", np.broadcast_to(labels.mean(0), labels.shape)

    def strata(self, labels: Targets) -> None:
        return None


def f1(chosen: NDArray[np.bool_], targets: NDArray[Any]) -> tuple[float, float]:
    """Micro F1 and the mean of the labels' F1, in percent, of chosen labels `[n, labels]`; F1 is 2 hits / (chosen + targets)."""
    targets = targets > 0
    hits, of = (chosen & targets).sum(0), chosen.sum(0) + targets.sum(0)
    some = of > 0
    micro = 200 * float(hits.sum()) / max(int(of.sum()), 1)
    return micro, float((200 * hits[some] / of[some]).mean()) if some.any() else 0.0


def best_thresholds(probabilities: NDArray[np.float64], targets: NDArray[Any]) -> NDArray[np.float64]:
    """The threshold of each label with the largest F1 on these samples; 0.5 for a label that no sample has."""
    found = np.full(probabilities.shape[1], THRESHOLD)
    for i, (p, target) in enumerate(zip(probabilities.T, targets.T > 0, strict=True)):
        if not target.any():
            continue
        tried = np.unique(p)[::-1]
        order = np.argsort(-p, kind="stable")
        taken = np.searchsorted(-p[order], -tried, side="right")
        hits = np.append(0, np.cumsum(target[order]))[taken]
        best = int(np.argmax(2 * hits / (taken + target.sum())))
        below = tried[best + 1] if best + 1 < len(tried) else 0.0
        found[i] = (tried[best] + below) / 2  # between two samples, so that rounding changes no answer
    return found
