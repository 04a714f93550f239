"""Tasks: the answers of a network, with their losses and scores."""

from collections.abc import Callable
from typing import Any

from edgekd.tasks.classify import Classify
from edgekd.tasks.multilabel import Multilabel
from edgekd.tasks.protocol import Task
from edgekd.tasks.regress import Regress
from edgekd.tasks.segment import Segment

TASKS: dict[str, Callable[[tuple[str, ...], tuple[int, ...], Any], Task]] = {
    "classify": Classify.of,
    "multilabel": Multilabel.of,
    "regress": Regress.of,
    "segment": Segment.of,
}
"""The word of `task.kind` -> makes the task from the outputs' names, the shape of one target and the recipe's [task]."""

__all__ = ["TASKS", "Task"]
