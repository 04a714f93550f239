"""The recipe in the report: its rows say what was trained."""

from __future__ import annotations

import pytest

from edgekd.check.summary import summary
from edgekd.recipe import Recipe
from tests.builders.recipes import DIGITS


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
