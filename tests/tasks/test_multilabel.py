"""Several labels: average precision and F1 by hand, thresholds by trying all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.tasks.multilabel import MAP, Multilabel, average_precisions, best_thresholds, f1
from edgekd.tasks.protocol import Labels

TASK = Multilabel(("cat", "dog"))
TARGETS = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.float32)


def test_average_precision_is_the_mean_precision_at_each_hit() -> None:
    """cat: ranks hit, miss, hit, miss: (1/1 + 2/3) / 2. dog: miss, hit, hit, miss: (1/2 + 2/3) / 2."""
    probabilities = np.array([[0.9, 0.9], [0.8, 0.8], [0.7, 0.7], [0.1, 0.1]])
    judged = TASK.judge(probabilities, TARGETS)
    expected = [100 * (1 + 2 / 3) / 2, 100 * (1 / 2 + 2 / 3) / 2]
    np.testing.assert_allclose(average_precisions(judged), expected)
    assert MAP.value(judged) == pytest.approx(np.mean(expected))


def test_samples_of_one_probability_are_one_step() -> None:
    """Whatever their order, half of them are right: int8 gives many samples one probability."""
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        judged = TASK.judge(np.full((4, 2), 0.5), TARGETS[order])
        np.testing.assert_allclose(average_precisions(judged), [50, 50])


def test_a_label_that_no_sample_has_counts_nothing() -> None:
    judged = TASK.judge(np.array([[0.9, 0.9], [0.1, 0.8]]), np.array([[1, 0], [0, 0]], np.float32))
    np.testing.assert_allclose(average_precisions(judged), [100])


def test_the_label_loss_is_the_binary_cross_entropy_with_mixed_labels() -> None:
    z = torch.tensor([[0.5, -1.0]])
    labels = Labels(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([0.75]))
    p, t = 1 / (1 + np.exp(-z.numpy()[0])), np.array([0.75, 0.0])
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum()
    assert float(TASK.label_loss(z, labels)) == pytest.approx(expected, rel=1e-6)


def test_the_divergence_is_zero_for_equal_logits_alone() -> None:
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert float(TASK.divergence(z, z)) == pytest.approx(0, abs=1e-6)
    assert float(TASK.divergence(z, z + 0.5)) > 0


def test_probabilities_are_sigmoids_that_do_not_overflow() -> None:
    found = TASK.answered(np.array([[0.0, 1000.0], [-1000.0, 2.0]], np.float32))
    np.testing.assert_allclose(found, [[0.5, 1], [0, 1 / (1 + np.exp(-2))]])


def test_f1_is_two_hits_over_chosen_and_targets() -> None:
    """cat: 1 hit of 2 chosen and 2 targets; dog: 1 of 1 and 2. In all 2 hits of 3 and 4."""
    chosen = np.array([[True, False], [True, False], [False, True], [False, False]])
    micro, macro = f1(chosen, TARGETS)
    assert micro == pytest.approx(100 * 4 / 7) and macro == pytest.approx(100 * (2 / 4 + 2 / 3) / 2)


def test_thresholds_are_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (60, 3)).astype(np.float32)
    p = np.round(np.clip(0.3 * targets + 0.7 * rng.random((60, 3)), 0, 1), 2)
    found = best_thresholds(p, targets)
    for label in range(3):
        tried = [f1((p[:, [label]] > t), targets[:, [label]])[0] for t in np.linspace(-0.005, 0.995, 101)]
        assert f1(p[:, [label]] > found[label], targets[:, [label]])[0] == pytest.approx(max(tried))
    assert best_thresholds(p, np.zeros_like(targets)).tolist() == [0.5, 0.5, 0.5]


def test_the_best_constant_answer_is_each_labels_share() -> None:
    _, constant = TASK.constant(TARGETS)
    assert constant[0].tolist() == [0.5, 0.5] and MAP.value(TASK.judge(constant, TARGETS)) == pytest.approx(50)
    assert TASK.strata(TARGETS) is None
