"""Teaching: what a student learns from and how, as a stage's key holds it."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.cache.stage import Artifact
from edgekd.data import Samples
from edgekd.recipe import Distill
from edgekd.steps.problem import TrainingSet
from edgekd.steps.trained import Trained


@dataclass(frozen=True)
class RecordedTeacher:
    """A teacher and its recorded logits; `on` is what it sees: another column of the same rows, perhaps."""

    teacher: Trained
    on: TrainingSet
    outputs: Artifact


@dataclass(frozen=True)
class TaskTeaching:
    """A task of the student: its labels, and its teachers where a loss reads them.

    The first teacher may be read for features: live, or pooled from `features`.
    """

    on: TrainingSet
    name: str = ""
    weight: float = 1.0
    teachers: tuple[RecordedTeacher, ...] = ()
    features: Artifact | None = None


@dataclass(frozen=True)
class Teaching:
    """How a student is trained, and the tasks that it learns."""

    settings: Distill
    tasks: tuple[TaskTeaching, ...]

    def samples(self) -> Samples:
        """The training samples, which are those of every task, with the first one's labels."""
        return self.tasks[0].on.open()
