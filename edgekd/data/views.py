"""Views: augmentation as a pure function of (sample id, view number, seed), so that it replays exactly.

Teacher and student must see the same sample, whatever the batch order or the number of workers and processes. So each
random number is a hash of its coordinates (edgekd.base.draws). The input (edgekd.inputs) does the augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from edgekd.base.draws import Floats, Ids, integers, uniform
from edgekd.inputs.protocol import Arrays, Input
from edgekd.tasks.rows import Rows

Targets = Mapping[str, npt.NDArray[Any]]  # task -> labels `[n, ...]`


@dataclass(frozen=True)
class Learnt:
    """The labels of a whole split for a task, `[samples, ...]`, and how they follow a view."""

    labels: npt.NDArray[Any]
    rows: Rows


class Batch(NamedTuple):
    """Some samples in one view, as training reads them.

    inputs: raw arrays by field, `[n, ...]`; targets: labels by task, `[n, ...]`. With mix-up the label is that of
    `targets` with probability `lam` (float64 `[n]`) and that of `partners` otherwise. Without mix-up `lam` is 1.
    """

    inputs: Arrays
    targets: Targets
    partners: Targets
    lam: Floats


@dataclass(frozen=True)
class Views:
    """Augmented views of a split: `views(ids, number)` gives a Batch.

    get: function from ids to raw arrays; learnt: what each task learns, by its name; ids: samples that mix-up may pick as
    partners; mixup: alpha of Beta(alpha, alpha), 0 is off.
    """

    input: Input
    get: Callable[[Ids], Arrays]
    learnt: Mapping[str, Learnt]
    ids: Ids
    seed: int
    mixup: float = 0.0

    def __call__(self, ids: Ids, view: int) -> Batch:
        raw, targets = self._alone(ids, view), self._targets(ids, view)
        if not self.mixup:
            return Batch(raw, targets, targets, np.ones(len(ids)))
        partners = self.ids[integers(ids, len(self.ids), self.seed, view, 5)]
        lam = betaincinv(self.mixup, self.mixup, uniform(ids, self.seed, view, 6))
        lam = np.maximum(lam, 1 - lam)  # the sample itself outweighs its partner
        mixed = self.input.mixed(raw, self._alone(partners, view), lam)
        return Batch(mixed, targets, self._targets(partners, view), lam)

    def _alone(self, ids: Ids, view: int) -> Arrays:
        return self.input.view(self.get(ids), ids, view, self.seed)

    def _targets(self, ids: Ids, view: int) -> Targets:
        """The labels of samples in a view: those of a map move as the samples do."""

        def move(maps: npt.NDArray[Any], outside: int) -> npt.NDArray[Any]:
            return self.input.moved(maps, ids, view, self.seed, outside)

        return {task: learnt.rows.follow(learnt.labels[ids], move) for task, learnt in self.learnt.items()}
