"""Classes that a student never names right: fp32 and the teacher may not know them either, so no floor is missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekd.check.lines import never_right
from edgekd.tasks.classify import Classify
from edgekd.tasks.protocol import Task


@dataclass
class Split:
    """The part of a test split that the warning reads."""

    task: Task
    labels: np.ndarray
    classes: tuple[str, ...]


def told(labels: list[int], answers: list[int]) -> list[str]:
    names = ("one", "two", "three")
    split = Split(Classify(names), np.array(labels), names)
    return list(never_right(split, "int8", np.array(answers)))  # type: ignore[arg-type]


def test_classes_that_no_sample_got_are_named() -> None:
    """Of `two` all 6 got `one`; `three` has one right of 6."""
    labels, answers = [0] * 6 + [1] * 6 + [2] * 6, [0] * 12 + [2] + [1] * 5
    assert told(labels, answers) == ["int8 never gives the right answer for two (6 samples)"]


def test_a_class_of_few_samples_and_a_student_that_knows_all_are_not_told() -> None:
    assert not told([0] * 6 + [1] * 4, [0] * 10)
    assert not told([0] * 6 + [1] * 6, [0] * 6 + [1] * 6)
