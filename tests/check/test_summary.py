"""The recipe in the report: its rows say what was trained."""

from __future__ import annotations

import pytest

from edgekd.check.summary import summary
from edgekd.recipe import Recipe
from tests.builders.recipes import DIGITS


def tiny(**distill: object) -> Recipe:
    sections = {
        "name": "tiny", "data": {"train": DIGITS, "test": DIGITS}, "student": {"model": "edgekd:resnet8"}, "distill": distill,
    }  # fmt: skip
    return Recipe.model_validate(sections)


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({}, "seed 0"),
        ({"keep": "best"}, "seed 0, kept epoch 2, the best on the hold-out split"),
        (
            {"keep": "best", "patience": 1},
            ", ended after epoch 3 (patience 1), kept epoch 2, the best on the hold-out split",
        ),
        ({"epochs": 3, "patience": 4}, ", not ended early (patience 4)"),
    ],
)
def test_the_row_of_the_training_tells_which_epoch_was_kept_and_whether_it_ended_early(
    settings: dict[str, object], ends: str
) -> None:
    recipe = tiny(**settings)
    curves = [{"epoch": 1.0}, {"epoch": 2.0}, {"epoch": 3.0}]
    if recipe.distill.keep == "best":
        curves[1]["kept"] = 1.0
    assert dict(summary(recipe, recipe.distill, curves))["training"].endswith(ends)


@pytest.mark.parametrize(
    ("weights", "told"), [("balanced", "class weights balanced"), ([1.0, 2.5], "class weights 1, 2.5")]
)
def test_the_rows_tell_that_classes_are_weighted_or_drawn_equally_often(weights: object, told: str) -> None:
    recipe = tiny(class_weights=weights, sampling="balanced")
    rows = dict(summary(recipe, recipe.distill))
    assert rows["labels"] == f"cross-entropy, weight 0.1, {told}"
    assert rows["training"].endswith("seed 0, each class equally often")


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ({"kind": "classify"}, "cross-entropy, weight 0.5"),
        ({"kind": "multilabel"}, "binary cross-entropy of each label, weight 0.5"),
        ({"kind": "regress"}, "half the squared error, weight 0.5"),
        ({"kind": "segment", "classes": ["ground", "disc"]}, "cross-entropy of each pixel, weight 0.5"),
    ],
)
def test_the_label_loss_is_that_of_the_task(task: dict[str, object], loss: str) -> None:
    sections = {
        "name": "tiny", "data": {"train": DIGITS, "test": DIGITS}, "task": task, "student": {"model": "edgekd:resnet8"},
        "distill": {"label_weight": 0.5, "losses": []},
    }  # fmt: skip
    recipe = Recipe.model_validate(sections)
    assert dict(summary(recipe, recipe.distill))["labels"] == loss
