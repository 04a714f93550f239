"""Teaching: what a student learns from and how, as a stage's key holds it."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.cache.stage import Artifact
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
    """A further task of the student: its labels, and its teacher where a loss reads one."""

    name: str
    weight: float
    on: TrainingSet
    recorded: RecordedTeacher | None


@dataclass(frozen=True)
class Teaching:
    """How a student is trained, and its teachers.

    The first of them may be read for features: live, or pooled from `features`. `tasks` are the student's further tasks.
    """

    settings: Distill
    teachers: tuple[RecordedTeacher, ...] = ()
    features: Artifact | None = None
    tasks: tuple[TaskTeaching, ...] = ()
