"""Class weights in the label loss: the figures by hand, and those of torch's own weighted cross-entropy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.check.preflight import check_class_weights
from edgekd.data import Samples
from edgekd.distill.class_weights import balanced_weights, label_losses, weighted_cross_entropy
from edgekd.distill.train import train
from edgekd.errors import RecipeError
from edgekd.recipe import Optimizer
from edgekd.tasks.protocol import Labels
from tests.builders.training import IDS, LABELS, lesson_on, network, samples, settings


def uneven() -> Samples:
    """The samples with 4 training pictures of class 2, and all hold-out pictures as before."""
    rare = np.flatnonzero(LABELS[:80] == 2)[4:]
    return replace(samples(), train_ids=np.setdiff1d(IDS[:80], rare))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    """n / (k n_c) by hand: 8 samples, of the classes 5, 2 and 1; the class without samples counts for nothing."""
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 3])
    np.testing.assert_allclose(balanced_weights(labels, 4), [8 / (3 * 5), 8 / (3 * 2), 1.0, 8 / 3])
    assert balanced_weights(labels, 4)[labels].mean() == pytest.approx(1.0)


def test_the_loss_is_torchs_weighted_cross_entropy() -> None:
    z, hard, weights = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 2]), torch.tensor([1.0, 2.0, 5.0])
    found = weighted_cross_entropy(z, Labels(hard, hard, torch.ones(7)), weights)
    torch.testing.assert_close(found, torch.nn.CrossEntropyLoss(weight=weights)(z, hard))


def test_with_mix_up_each_label_has_its_share_of_its_own_weight() -> None:
    """A row of two labels is two rows whose weights are multiplied by their shares."""
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    labels = Labels(torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([0.75, 0.5]))
    nll = -torch.log_softmax(z, 1)
    expected = (0.75 * 1 * nll[0, 0] + 0.25 * 3 * nll[0, 1] + 3 * nll[1, 1]) / (0.75 + 0.75 + 3)
    torch.testing.assert_close(weighted_cross_entropy(z, labels, torch.tensor([1.0, 3.0])), expected)


def test_only_training_samples_are_counted_and_only_the_first_task_is_weighted() -> None:
    first, second = lesson_on(uneven()).tasks[0], lesson_on(samples(), name="second").tasks[0]
    lesson = replace(lesson_on(uneven()), tasks=(first, second))
    z, hard = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    labels = Labels(hard, hard, torch.ones(6))
    counts = np.bincount(LABELS[uneven().train_ids])
    weights = torch.tensor(counts.sum() / (3 * counts), dtype=torch.float32)
    losses = label_losses(lesson, settings(class_weights="balanced"))
    torch.testing.assert_close(losses[""](z, labels), torch.nn.CrossEntropyLoss(weight=weights)(z, hard))
    torch.testing.assert_close(losses["second"](z, labels), torch.nn.functional.cross_entropy(z, hard))


def test_equal_weights_train_as_no_weights_do(tmp_path: Path) -> None:
    """To rounding, in float32; weights that differ give another loss from the same first weights."""
    found = {}
    for name, weights in {"none": None, "equal": (2.0, 2.0, 2.0), "other": (1.0, 1.0, 9.0)}.items():
        (tmp_path / name).mkdir()
        given = settings(epochs=1, class_weights=weights, optimizer=Optimizer(lr=1e-9))
        train(network(), lesson_on(uneven()), given, tmp_path / name)
        found[name] = json.loads((tmp_path / name / "metrics.jsonl").read_text())["loss/labels"]
    assert found["equal"] == pytest.approx(found["none"], rel=1e-5)
    assert found["other"] != pytest.approx(found["none"], rel=1e-3)


def test_another_number_of_weights_than_classes_is_refused_with_the_classes_in_order() -> None:
    check_class_weights(settings(class_weights=(1.0, 2.0, 3.0)), samples())
    with pytest.raises(RecipeError, match=r"has 2 numbers, the data has 3 classes; .* order left, middle, right"):
        check_class_weights(settings(class_weights=(1.0, 2.0)), samples())
