"""Masks: intersections, unions and losses by hand and by loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.recipe import SegmentTask
from edgekd.tasks.protocol import Labels
from edgekd.tasks.scores import scored
from edgekd.tasks.segment import MEAN_IOU, Segment

NAMES = ("sky", "sea", "land")
TASK = Segment(NAMES, (2, 3), SegmentTask(kind="segment", classes=NAMES, class_weights=(1.0, 2.0, 3.0)))
MASKS = np.array([[[0, 0, 1], [1, 255, 255]], [[0, 0, 0], [1, 1, 0]]], np.uint8)
ANSWERS = np.array([[[0, 1, 1], [1, 1, 0]], [[0, 0, 0], [1, 0, 0]]], np.uint8)


def test_mean_iou_sums_pixels_over_all_samples_and_leaves_ignored_ones_out() -> None:
    """sky: 5 of 7; sea: 3 of 5; land occurs nowhere. 8 of 10 pixels are right."""
    score = scored(TASK, ANSWERS, MASKS, "runtime 1")
    assert score.value == pytest.approx(100 * (5 / 7 + 3 / 5) / 2, abs=1e-3)
    assert score.parts == {"sky": 71.43, "sea": 60.0, "pixel accuracy": 80.0}


def test_a_class_that_is_answered_and_never_right_counts_as_zero() -> None:
    judged = TASK.judge(np.full((1, 2, 3), 2, np.uint8), np.zeros((1, 2, 3), np.uint8))
    assert MEAN_IOU.value(judged) == 0


def test_the_label_loss_is_the_weighted_mean_of_the_pixels() -> None:
    z = torch.randn(2, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    hard, lam = torch.from_numpy(MASKS), torch.tensor([0.75, 0.5])
    partner = torch.from_numpy(MASKS[::-1].copy())
    log_p = z.log_softmax(1).numpy()
    loss = weight = 0.0
    for masks, share in ((hard.numpy(), lam.numpy()), (partner.numpy(), 1 - lam.numpy())):
        for n, y, x in np.ndindex(masks.shape):
            if (label := masks[n, y, x]) != 255:
                loss -= share[n] * (1, 2, 3)[label] * log_p[n, label, y, x]
                weight += share[n] * (1, 2, 3)[label]
    assert float(TASK.label_loss(z, Labels(hard, partner, lam))) == pytest.approx(loss / weight, rel=1e-5)


def test_a_batch_of_ignored_pixels_costs_nothing() -> None:
    masks = torch.full((1, 2, 3), 255)
    z = torch.randn(1, 3, 2, 3, requires_grad=True)
    loss = TASK.label_loss(z, Labels(masks, masks, torch.ones(1)))
    loss.backward()
    assert float(loss.detach()) == 0 and z.grad is not None and not z.grad.any()


def test_the_class_of_the_largest_logit_is_stored() -> None:
    outputs = np.random.default_rng(0).normal(size=(2, 3, 2, 3)).astype(np.float32)
    stored = TASK.stored(outputs)
    assert stored.dtype == np.uint8 and (stored == outputs.argmax(1)).all()
    assert TASK.same(ANSWERS, ANSWERS).tolist() == [1, 1] and TASK.same(ANSWERS, MASKS)[1] == pytest.approx(5 / 6)


def test_the_best_constant_answer_is_the_most_frequent_class() -> None:
    words, constant = TASK.constant(MASKS)
    assert words == "naming sky always" and (constant == 0).all() and constant.shape == MASKS.shape
