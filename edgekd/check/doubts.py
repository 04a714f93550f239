"""doubts: reasons to trust the test split's figures less, for example samples of train or missing classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgekd.data import Unseen
from edgekd.data.sources import listed
from edgekd.inputs import Image
from edgekd.tasks.scores import valued


def doubts(test: Unseen, name: str = "", logits: npt.NDArray[np.float32] | None = None) -> Iterator[str]:
    """A sentence for each doubt. A model's `name` and `logits` add its score without the repeated samples."""
    labels, repeated = test.labels, test.repeated
    n = int(repeated.sum())
    called, values = ("pictures", "pixels") if isinstance(test.input, Image) else (test.input.noun, "values")
    if n and n == len(labels):
        yield f"all {n} test {called} are in train too (the same {values}): the accuracies say nothing about new ones"
    elif n:
        told = f"{n} of {len(labels)} test {called} are in train too (the same {values})"
        if logits is not None:
            new = ~repeated
            among_all, among_new = (valued(test.task, logits[rows], labels[rows]) for rows in (slice(None), new))
            told += f": {name} is right on {among_all:.2f} % of all, and on {among_new:.2f} % of the {len(labels) - n} others"
        yield told
    counts = np.bincount(labels, minlength=len(test.classes))
    if lacking := [test.classes[i] for i in np.flatnonzero(counts == 0)]:
        yield f"no test sample of class {listed(lacking)}: no accuracy speaks of {'it' if len(lacking) == 1 else 'them'}"
