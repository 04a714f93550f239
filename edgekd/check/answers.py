"""answers_found: the shipped model's answers to the test split in the report: by class, confused, and mistaken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.cache.stage import Artifact
from edgekd.check.confusion import classes_found, confusion_of, labels_found
from edgekd.check.fit import fits_of
from edgekd.check.mistaken import mistakes_of
from edgekd.data import Unseen
from edgekd.figures.figures import ClassScore, Confusion, Fit, Mistake
from edgekd.recipe import Export
from edgekd.tasks.classify import Classify
from edgekd.tasks.multilabel import Multilabel
from edgekd.tasks.regress import Regress


@dataclass(frozen=True)
class Found:
    """The fields of the report with these names, as far as the kind of answers has them."""

    by_class: tuple[ClassScore, ...] = ()
    confusion: Confusion | None = None
    mistakes: tuple[Mistake, ...] = ()
    fits: tuple[Fit, ...] = ()


def answers_found(test: Unseen, scores: Artifact, taught: Artifact | None, export: Export) -> Found:
    """What the stored outputs on the test split say. scores, taught: of the shipped model and of the teacher.

    The outputs are mapped, not read as a whole: of 100,000 samples and 1,000 classes they take 400 MB.
    """
    task, names, labels, outputs = test.task, test.classes, test.labels, _stored(scores / "test.npy")
    if isinstance(task, Multilabel):
        return Found(tuple(labels_found(names, labels)))
    if isinstance(task, Regress):
        return Found(fits=tuple(fits_of(names, labels, task.answered(outputs))))
    if not isinstance(task, Classify):
        return Found()
    answers = task.answered(outputs)
    teacher, known = None, 0
    if taught is not None:
        by_teacher = _stored(taught / "test.npy")
        teacher, known = task.answered(by_teacher), by_teacher.shape[1]
    return Found(
        tuple(classes_found(names, labels, answers, teacher, known)),
        confusion_of(names, labels, answers, teacher, known),
        mistakes_of(names, labels, answers, outputs, teacher, logits=export.output == "logits"),
    )


def _stored(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]
