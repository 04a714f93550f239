"""Problem: what is learnt and what judges it, two artifacts: nothing that trains reads the second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgekd.cache.stage import Artifact, Cache
from edgekd.data import Samples, Unseen, decode, decode_test, open_samples, open_test
from edgekd.recipe import Data, Recipe


@dataclass(frozen=True)
class TrainingSet:
    """The decoded training split, and how it is held out, augmented and normalised."""

    samples: Artifact
    data: Data

    def open(self) -> Samples:
        """The samples, mapped into memory."""
        return open_samples(self.samples.folder, self.data)


@dataclass(frozen=True)
class EvaluationSet:
    """The decoded test split, and how it is normalised."""

    samples: Artifact
    data: Data

    def open(self) -> Unseen:
        """The samples, mapped into memory."""
        return open_test(self.samples.folder, self.data)


@dataclass(frozen=True)
class Problem:
    """Both decoded splits, as the student sees them or as its teacher does."""

    train: Artifact
    test: Artifact
    data: Data

    @property
    def training(self) -> TrainingSet:
        """What stages that train are given: another test split changes no key of theirs."""
        return TrainingSet(self.train, self.data)

    @property
    def evaluation(self) -> EvaluationSet:
        """What stages that score are given: neither the hold-out split nor augmentation changes a key of theirs."""
        return EvaluationSet(self.test, self.data.of_test)

    def open(self) -> Samples:
        """The training split."""
        return self.training.open()

    def open_test(self) -> Unseen:
        """The test split, for the final check."""
        return self.evaluation.open()


@dataclass(frozen=True)
class Problems:
    """The same samples as the student sees them, as its teachers do, and with the labels of each further task."""

    student: Problem
    teacher: Problem
    tasks: Mapping[str, Problem]

    @property
    def skipped(self) -> tuple[str, ...]:
        """The images of both splits that do not decode."""
        return (*self.student.open().skipped, *self.student.open_test().skipped)


def problems_of(run: Cache, recipe: Recipe) -> Problems:
    """Everything that a recipe names, decoded."""
    student, seen = decoded(run, recipe.data), recipe.teacher_data
    teacher = decoded(run, seen) if seen.column != recipe.data.column else replace(student, data=seen)
    return Problems(student, teacher, {task.name: decoded(run, recipe.task_data(task)) for task in recipe.tasks})


def decoded(run: Cache, data: Data) -> Problem:
    """Both splits of a recipe's data. Of a data-free build the test split stands for both until images are made."""
    return with_training_split(run, run(decode, data.source("train")), data)


def with_training_split(run: Cache, train: Artifact, data: Data) -> Problem:
    """The problem of a training split that is there already."""
    return Problem(train, run(decode_test, data.source("test"), train), data)
