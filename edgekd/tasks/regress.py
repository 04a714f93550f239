"""Regress: one or more values for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.metric import Judged, Metric
from edgekd.recipe import RegressTask
from edgekd.tasks.protocol import Answers, Holds, Labels, Outputs
from edgekd.tasks.rows import OneRow, Rows

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from torch import Tensor

Targets = NDArray[np.float32]
CLOSE = 0.02  # of the range of values: a step of int8 is 0.004 of it
MAE = Metric("MAE", "", "lower", value=lambda judged: float(judged.mean()))
"""The mean absolute error, in the unit of the values."""


@dataclass(frozen=True)
class Regress:
    """The task of estimating values: an output is the value itself, in the unit of the data."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: tuple[str, ...], shape: tuple[int, ...], settings: RegressTask) -> Regress:
        """The task of a decoded split with values of these names."""
        return cls(names)

    @property
    def holds(self) -> Holds:
        return "values"

    @property
    def rows(self) -> Rows:
        return OneRow()

    @property
    def metric(self) -> Metric:
        return MAE

    @property
    def outputs(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs,)

    def label_loss(self, z: Tensor, labels: Labels) -> Tensor:
        """Half the squared error with the (mixed) values, summed over values, batch mean."""
        lam = labels.lam[:, None]
        target = lam * labels.hard + (1 - lam) * labels.partner
        return 0.5 * (z.float() - target).square().sum(1).mean()

    def divergence(self, expected: Tensor, quantized: Tensor) -> Tensor:
        """The mean squared difference, summed over values."""
        return (quantized - expected).square().sum(1).mean()

    def stored(self, outputs: Outputs) -> Outputs:
        """The values themselves."""
        return outputs

    def answered(self, stored: Outputs) -> Answers:
        """The values themselves."""
        return stored

    def judge(self, answers: Answers, labels: Targets) -> Judged:
        """Each sample's absolute errors, `[n, values]`."""
        return np.abs(answers.astype(np.float64) - labels)

    def parts(self, answers: Answers, labels: Targets) -> dict[str, float]:
        """RMSE and R² over all samples; of several values also the mean absolute error of each."""
        error = answers.astype(np.float64) - labels
        spread = np.square(labels - labels.mean(0, dtype=np.float64)).mean(0)
        explained = 1 - np.square(error).mean(0) / np.maximum(spread, np.finfo(np.float64).tiny)
        each = {f"MAE {name}": _figure(np.abs(error[:, i]).mean()) for i, name in enumerate(self.names)}
        return {
            "RMSE": _figure(np.sqrt(np.square(error).mean())),
            "R²": _figure(explained.mean()),
            **(each if len(each) > 1 else {}),
        }

    def same(self, one: Answers, other: Answers) -> NDArray[np.float64]:
        """The share of values that differ by at most 2 % of the range that the first network's values have."""
        most = CLOSE * (one.max(0) - one.min(0)) if len(one) else 0.0
        return np.asarray((np.abs(one - other) <= most).mean(1), np.float64)

    def constant(self, labels: Targets) -> tuple[str, Answers]:
        """The median of each value, which has the least mean absolute error."""
        return "the median of each value", np.broadcast_to(np.median(labels, 0), labels.shape)

    def strata(self, labels: Targets) -> None:
        return None


def _figure(value: float) -> float:
    return float(f"{value:.5g}")
