"""The task of classes, each figure against one that is computed by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch

from edgekd.tasks.classify import Classify
from edgekd.tasks.protocol import Labels, Task
from edgekd.tasks.scores import scored, value_of

TASK: Task = Classify(("cat", "dog", "owl"))
OUTPUTS = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0], [1.0, 4.0, 0.0], [2.0, 0.0, 1.0]], np.float32)
LABELS = np.array([0, 1, 1, 0])


def test_the_answer_is_the_class_of_the_largest_output() -> None:
    assert TASK.answered(OUTPUTS).tolist() == [0, 2, 1, 0] and TASK.outputs == 3


def test_the_score_is_the_share_of_right_answers_with_those_of_each_class() -> None:
    score = scored(TASK, TASK.answered(OUTPUTS), LABELS, "runtime 1")
    assert (score.metric, score.unit, score.better) == ("top-1", "%", "higher")
    assert score.value == value_of(TASK, OUTPUTS, LABELS) == 75.0
    assert score.parts == {"cat": 100.0, "dog": 50.0}  # no sample of the third
    assert score.n == 4 and score.low < 75 < score.high


def test_the_label_loss_is_the_cross_entropy_of_both_labels_by_their_shares() -> None:
    """Logits ln 2 and 0: the first class has p = 2/3."""
    z = torch.tensor([[log(2.0), 0.0]])
    labels = Labels(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.75]))
    assert TASK.label_loss(z, labels).item() == pytest.approx(-0.75 * log(2 / 3) - 0.25 * log(1 / 3), rel=1e-6)


def test_the_divergence_is_kl_from_the_float_answers() -> None:
    """p = (2/3, 1/3) and q = (1/2, 1/2): Σ p log(p/q)."""
    expected, found = torch.tensor([[log(2.0), 0.0]]), torch.zeros(1, 2)
    assert TASK.divergence(expected, found).item() == pytest.approx(2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3), rel=1e-6)
    assert TASK.divergence(expected, expected).item() == pytest.approx(0.0, abs=1e-7)


def test_two_networks_share_an_answer_where_both_name_one_class() -> None:
    assert TASK.same(np.array([0, 1, 2]), np.array([0, 2, 2])).tolist() == [1.0, 0.0, 1.0]


def test_scores_are_read_without_torch() -> None:
    """`edgekd measure` scores what a device answered; importing torch would take it seconds."""
    import subprocess
    import sys

    code = "import edgekd.tasks.classify, edgekd.tasks.scores, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
