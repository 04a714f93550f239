"""Values: errors by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.figures.metric import drop_of
from edgekd.tasks.protocol import Labels
from edgekd.tasks.regress import MAE, Regress
from edgekd.tasks.scores import scored

TASK = Regress(("height", "width"))
LABELS = np.array([[1, 10], [2, 20], [3, 30], [4, 40]], np.float32)
ANSWERS = LABELS + np.array([[1, 0], [-1, 0], [1, 0], [-1, 4]], np.float32)


def test_the_score_is_the_mean_absolute_error_with_rmse_and_r2_beside_it() -> None:
    score = scored(TASK, ANSWERS, LABELS, "runtime 1")
    assert score.value == pytest.approx(1.0) and score.better == "lower" and score.low <= 1.0 <= score.high
    explained = ((1 - 4 / 5) + (1 - 16 / 500)) / 2  # spreads: 1.25 and 125 times 4 samples
    assert score.parts == pytest.approx(
        {"RMSE": np.sqrt(20 / 8), "R²": explained, "MAE height": 1.0, "MAE width": 1.0}, rel=1e-4
    )


def test_a_larger_error_is_a_drop() -> None:
    drop = drop_of(MAE, TASK.judge(LABELS, LABELS), TASK.judge(ANSWERS, LABELS))
    assert drop.value == pytest.approx(1.0) and drop.low > 0


def test_the_label_loss_is_half_the_squared_error_with_mixed_values() -> None:
    z = torch.tensor([[1.0, 2.0]])
    labels = Labels(torch.tensor([[3.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0.5]))
    assert float(TASK.label_loss(z, labels)) == pytest.approx(0.5 * ((1 - 2) ** 2 + (2 - 1) ** 2))


def test_values_within_two_percent_of_the_range_are_the_same() -> None:
    """Ranges 3 and 30, so 0.06 and 0.6 may lie between."""
    other = LABELS + np.array([[0.05, 0.5], [0.05, 0.5], [0.07, 0.5], [0.07, 0.7]], np.float32)
    assert TASK.same(LABELS, other).tolist() == [1, 1, 0.5, 0]


def test_the_best_constant_answer_is_the_median() -> None:
    _, constant = TASK.constant(LABELS)
    assert constant[0].tolist() == [2.5, 25] and MAE.value(TASK.judge(constant, LABELS)) == pytest.approx(5.5)
