"""doubts: reasons to trust the test split's figures less, for example samples of train or missing classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.data import Samples, Unseen
from edgekd.data.encoded import listed
from edgekd.errors import DataError
from edgekd.figures.words import valued
from edgekd.inputs import Image
from edgekd.tasks.scores import value_of

LARGEST_LEVEL, SMALLEST_SPREAD = 10.0, 0.03  # of values; losses and learning rates are made for about one


def check_spread(samples: Samples) -> Iterator[str]:
    """A sentence for each column of values whose scale is not that of losses and learning rates.

    Raises DataError for a column that is the same in all training samples.
    """
    if samples.task.holds != "values":
        return
    values = samples.train.labels[samples.train_ids].astype(np.float64)
    for name, mean, spread in zip(samples.task.names, values.mean(0), values.std(0), strict=True):
        if spread <= 1e-12 * abs(mean):
            raise DataError(
                f"train: the values of {name} are {mean:g} in all {len(values)} samples; there is nothing to learn"
            )
        if spread < SMALLEST_SPREAD or np.hypot(mean, spread) > LARGEST_LEVEL:
            yield (
                f"the values of {name} have a mean of {mean:.3g} and a standard deviation of {spread:.3g}, and losses and learning "
                f"rates are made for 0 and 1: give the column as (value - {mean:.3g}) / {spread:.3g}, or training may fail"
            )


def doubts(test: Unseen, name: str = "", stored: npt.NDArray[Any] | None = None) -> Iterator[str]:
    """A sentence for each doubt. A model's `name` and `stored` outputs add its score without the repeated samples."""
    labels, repeated, task = test.labels, test.repeated, test.task
    n = int(repeated.sum())
    called, values = ("pictures", "pixels") if isinstance(test.input, Image) else (test.input.noun, "values")
    if n and n == len(labels):
        yield f"all {n} test {called} are in train too (the same {values}): the scores say nothing about new ones"
    elif n:
        told = f"{n} of {len(labels)} test {called} are in train too (the same {values})"
        if stored is not None:
            new, unit = ~repeated, task.metric.unit
            among_all, among_new = (value_of(task, stored[rows], labels[rows]) for rows in (slice(None), new))
            told += (
                f": {name} has {valued(among_all, unit)} {task.metric.name} on all, and {valued(among_new, unit)} on the "
                f"{len(labels) - n} others"
            )
        yield told
    if (classes := task.strata(labels)) is None:
        return
    counts = np.bincount(classes, minlength=len(test.classes))
    if lacking := [test.classes[i] for i in np.flatnonzero(counts == 0)]:
        yield f"no test sample of class {listed(lacking)}: no accuracy speaks of {'it' if len(lacking) == 1 else 'them'}"
