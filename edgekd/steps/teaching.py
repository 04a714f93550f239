"""Teaching: a student's settings, labels and recorded teachers, in the form that enters a stage's key."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.cache.stage import Artifact
from edgekd.data import Samples
from edgekd.recipe import Distill
from edgekd.steps.problem import TrainingSet
from edgekd.steps.trained import Trained


@dataclass(frozen=True)
class RecordedTeacher:
    """A teacher and its recorded logits. on: the samples that it sees, perhaps another column of the same rows."""

    teacher: Trained
    on: TrainingSet
    outputs: Artifact


@dataclass(frozen=True)
class TaskTeaching:
    """A task of the student: its labels, and its teachers if a loss reads them.

    Features come from the first teacher: from the live model, or pooled from `features`.
    """

    on: TrainingSet
    name: str = ""
    weight: float = 1.0
    teachers: tuple[RecordedTeacher, ...] = ()
    features: Artifact | None = None


@dataclass(frozen=True)
class Teaching:
    """The settings of a student's training, and the tasks that the student learns."""

    settings: Distill
    tasks: tuple[TaskTeaching, ...]

    def samples(self) -> Samples:
        """The training samples, the same for every task, with the labels of the first task."""
        return self.tasks[0].on.open()
