"""scored, valued: the score of answers by their task's metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.figures import Origin, Score
from edgekd.figures.metric import score_of
from edgekd.tasks.protocol import Answers, Task


def scored(task: Task, answers: Answers, labels: NDArray[np.int64], runtime: str, origin: Origin = "host") -> Score:
    """The score of answers on the test split, with its interval and its parts."""
    parts = task.parts(answers, labels)
    return score_of(task.metric, task.judge(answers, labels), runtime=runtime, origin=origin, parts=parts)


def valued(task: Task, outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The metric's figure for a network's outputs `[n, outputs]`, without an interval."""
    return task.metric.value(task.judge(task.answer(outputs), labels))
