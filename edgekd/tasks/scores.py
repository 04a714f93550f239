"""scored, valued: the score of answers by their task's metric."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edgekd.figures.candidate import Origin, Score
from edgekd.figures.metric import score_of
from edgekd.tasks.protocol import Answers, Targets, Task


def scored(task: Task, answers: Answers, labels: Targets, runtime: str, origin: Origin = "host") -> Score:
    """The score of answers on the test split, with its interval and its parts."""
    parts = task.parts(answers, labels)
    return score_of(task.metric, task.judge(answers, labels), runtime=runtime, origin=origin, parts=parts)


def value_of(task: Task, stored: NDArray[Any], labels: Targets) -> float:
    """The metric's figure for what is stored of a network's outputs (`Task.stored`), without an interval."""
    return task.metric.value(task.judge(task.answered(stored), labels))
