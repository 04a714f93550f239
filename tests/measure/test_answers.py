"""Answers that a device sends for the score: classes, numbers and packed masks, and what is none of them."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import pytest

from edgekd.figures.metric import score_of
from edgekd.measure.compare import is_as_good
from edgekd.measure.on_device import answers_of
from edgekd.recipe import SegmentTask
from edgekd.scripts.device_runner.measuring import scored
from edgekd.scripts.device_runner.start import Failure
from edgekd.tasks.classify import TOP1, Classify
from edgekd.tasks.multilabel import Multilabel
from edgekd.tasks.protocol import Task
from edgekd.tasks.regress import MAE, Regress
from edgekd.tasks.segment import Segment

NAMES = ("a", "b", "c")
MASKS = Segment(NAMES, (4, 5), SegmentTask(kind="segment", classes=NAMES))
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("task", "kind", "outputs"),
    [
        (Classify(NAMES), "classify", RNG.standard_normal((6, 3))),
        (Multilabel(NAMES), "multilabel", 100 * RNG.standard_normal((6, 3))),
        (Regress(NAMES), "regress", 1e6 * RNG.standard_normal((6, 3))),
        (MASKS, "segment", RNG.standard_normal((6, 3, 4, 5))),
    ],
)
def test_what_a_device_sends_is_what_the_host_would_score(task: Task, kind: str, outputs: np.ndarray) -> None:
    outputs = outputs.astype(np.float32)
    sent = [scored(output, kind) for output in outputs]
    np.testing.assert_array_equal(answers_of(sent, task), task.answered(task.stored(outputs)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_told(bad: float) -> None:
    with pytest.raises(Failure, match="NaN or infinity"):
        scored(np.array([1.0, bad]), "regress")


def packed(mask: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(mask.astype(np.uint8).tobytes())).decode()


@pytest.mark.parametrize(
    ("task", "sent", "message"),
    [
        (MASKS, [packed(np.zeros(20)), packed(np.zeros(19))], "a mask of 19 pixels; 20 of 3 classes"),
        (MASKS, [packed(np.zeros(10**6))], "a mask of 21 pixels"),
        (MASKS, [packed(np.full(20, 3))], "of 3 classes are needed"),
        (MASKS, ["no base64!"], "base64|alphabet"),
        (MASKS, [base64.b64encode(b"no zlib").decode()], "header"),
        (Regress(NAMES), [(1.0, 2.0, 3.0), (1.0, 2.0)], "shape"),
        (Regress(NAMES), [(1.0, 2.0, 1e300)], "beyond those of float32"),
    ],
)
def test_what_is_no_answer_of_the_task_is_refused(task: Task, sent: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        answers_of(sent, task)


def test_a_score_there_is_as_good_in_the_direction_of_its_metric() -> None:
    right, wrong = (score_of(TOP1, np.full((500, 1), value), runtime="r") for value in (1.0, 0.0))
    small, large = (score_of(MAE, np.full((500, 1), value), runtime="r") for value in (0.1, 5.0))
    assert is_as_good(right, wrong) and not is_as_good(wrong, right)
    assert is_as_good(small, large) and not is_as_good(large, small)
