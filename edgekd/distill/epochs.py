"""Epochs: which epoch is best on the hold-out split, the weights of that epoch, and when training ends early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgekd.figures.metric import Metric
from edgekd.recipe import Distill


class Epochs:
    """The figures of the epochs so far, in their order, and the weights of the best epoch. Epochs count from 1.

    It is a part of a checkpoint, so that a training after a kill chooses as one that was not killed. The weights are
    kept for `keep = "best"` alone.
    """

    def __init__(self, settings: Distill, metric: Metric) -> None:
        self.settings, self.sign = settings, metric.sign
        self.figures: list[float] = []
        self.weights: dict[str, Any] = {}

    def add(self, figure: float, model: nn.Module) -> None:
        """Add an epoch: its figure on the hold-out split, not rounded, and the model that would ship after it."""
        self.figures.append(float(figure))
        if self.settings.keep == "best" and self.best == len(self.figures):
            self.weights = {name: _copy(value) for name, value in model.state_dict().items()}

    @property
    def best(self) -> int:
        """The number of the best epoch, of equal epochs the later; 0 before the first."""
        scores = self._scores
        return max(range(1, len(scores) + 1), key=lambda number: (scores[number - 1], number), default=0)

    @property
    def improved(self) -> int:
        """The number of the last epoch that was better than all epochs before; an equal figure is no better one."""
        scores = self._scores
        return scores.index(max(scores)) + 1 if scores else 0

    @property
    def is_over(self) -> bool:
        """Whether the last `patience` epochs were no better than an epoch before them."""
        patience = self.settings.patience
        return patience is not None and bool(self.figures) and len(self.figures) - self.improved >= patience

    @property
    def kept(self) -> int:
        """The number of the epoch that ships if training ends now."""
        return self.best if self.settings.keep == "best" else len(self.figures)

    def restore(self, model: nn.Module) -> nn.Module:
        """Give the model the weights of the best epoch if these are kept, and return it."""
        if self.settings.keep == "best":
            model.load_state_dict(self.weights)
        return model

    def state_dict(self) -> dict[str, Any]:
        return {"figures": self.figures, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.figures, self.weights = list(state["figures"]), dict(state["weights"])

    @property
    def _scores(self) -> list[float]:
        """The figures so that more is better. A figure that is no number is worse than any number."""
        return [self.sign * figure if math.isfinite(figure) else -math.inf for figure in self.figures]


def _copy(value: Any) -> Any:
    # In the processor's memory, because an accelerator may have no room for a second student.
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
