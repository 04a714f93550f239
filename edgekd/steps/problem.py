"""Problem: the samples to learn from and the samples for the final check. No stage that trains reads the latter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgekd.cache.stage import Artifact, Cache
from edgekd.data import Samples, Unseen, decode, decode_test, open_samples, open_test
from edgekd.recipe import AnyData, AnyTask, Recipe


@dataclass(frozen=True)
class TrainingSet:
    """The decoded training split with the settings for hold-out, augmentation and normalisation, and those of the task."""

    samples: Artifact
    data: AnyData
    task: AnyTask

    def open(self) -> Samples:
        """The samples, mapped into memory."""
        return open_samples(self.samples.folder, self.data, self.task)


@dataclass(frozen=True)
class EvaluationSet:
    """The decoded test split with the settings for its normalisation, and those of the task."""

    samples: Artifact
    data: AnyData
    task: AnyTask

    def open(self) -> Unseen:
        """The samples, mapped into memory."""
        return open_test(self.samples.folder, self.data, self.task)


@dataclass(frozen=True)
class Problem:
    """Both decoded splits, as the student or the teacher sees them."""

    train: Artifact
    test: Artifact
    data: AnyData
    task: AnyTask

    @property
    def training(self) -> TrainingSet:
        """The input of stages that train. It does not hold the test split, so that split changes none of their keys."""
        return TrainingSet(self.train, self.data, self.task)

    @property
    def evaluation(self) -> EvaluationSet:
        """The input of stages that score. Hold-out and augmentation change none of their keys."""
        return EvaluationSet(self.test, self.data.of_test, self.task.of_test)

    def open(self) -> Samples:
        """The training split."""
        return self.training.open()

    def open_test(self) -> Unseen:
        """The test split, for the final check."""
        return self.evaluation.open()


@dataclass(frozen=True)
class Problems:
    """The samples as the student sees them, as its teachers see them, and with the labels of each further task."""

    student: Problem
    teacher: Problem
    tasks: Mapping[str, Problem]

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names of the images in both splits that do not decode."""
        return (*self.student.open().skipped, *self.student.open_test().skipped)


def problems_of(run: Cache, recipe: Recipe) -> Problems:
    """The decoded splits of a recipe, for the student, the teachers and each further task."""
    student, seen = decoded(run, recipe.data, recipe.task), recipe.teacher_data
    teacher = decoded(run, seen, recipe.task) if seen.column != recipe.data.column else replace(student, data=seen)
    further = {task.name: decoded(run, recipe.task_data(task), task.task) for task in recipe.tasks}
    return Problems(student, teacher, further)


def decoded(run: Cache, data: AnyData, task: AnyTask) -> Problem:
    """Both splits of a recipe's data. In a data-free build the test split serves as both until images are made."""
    return with_training_split(run, run(decode, data.source("train"), task.of_labels), data, task)


def with_training_split(run: Cache, train: Artifact, data: AnyData, task: AnyTask) -> Problem:
    """The problem for a training split that is decoded already."""
    return Problem(train, run(decode_test, data.source("test"), task.of_labels, train), data, task)
