"""scored, valued: how good answers are by their task's metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.figures import Origin, Score
from edgekd.figures.metric import score_of
from edgekd.tasks.protocol import Answers, Task


def scored(task: Task, answers: Answers, labels: NDArray[np.int64], runtime: str, origin: Origin = "host") -> Score:
    """The test split's score with its interval and its parts."""
    parts = task.parts(answers, labels)
    return score_of(task.metric, task.judge(answers, labels), runtime=runtime, origin=origin, parts=parts)


def valued(task: Task, outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The figure alone, of a network's outputs `[n, outputs]`."""
    return task.metric.value(task.judge(task.answer(outputs), labels))
