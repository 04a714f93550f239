"""The batch size fits the number of training samples: the default shrinks, a number of one's own is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekd.check.batch import batch_size_of, check_batch_size, number_of_samples
from edgekd.data import Samples
from edgekd.errors import RecipeError
from edgekd.recipe import Recipe
from tests.builders.recipes import DIGITS
from tests.builders.training import samples


def recipe(data: dict[str, object] | None = None, **distill: object) -> Recipe:
    sections = {
        "name": "tiny", "data": {"train": DIGITS, "test": DIGITS, **(data or {})}, "student": {"model": "edgekd:resnet8"},
        "distill": distill,
    }  # fmt: skip
    return Recipe.model_validate(sections)


def of(number: int) -> Samples:
    return replace(samples(), train_ids=np.arange(number))


@pytest.mark.parametrize(
    ("number", "size"),
    [(128, 128), (1000, 128), (127, 8), (64, 8), (63, 4), (16, 2), (9, 2), (2, 2)],  # an eighth, as a power of two
)
def test_the_default_shrinks_to_a_size_that_leaves_steps(
    number: int, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch_size_of(recipe().canonical(), of(number)) == size
    told = capsys.readouterr().err
    assert (f"there are {number} training samples" in told) == (size < 128)


def test_a_size_of_ones_own_that_is_too_large_is_refused_with_both_numbers() -> None:
    check_batch_size(recipe(batch_size=80), of(80))
    check_batch_size(recipe(), of(80))
    with pytest.raises(RecipeError, match=r"batch_size is 128, but there are 80 training samples.*give at most 80"):
        check_batch_size(recipe(batch_size=128).canonical(), of(80))


def test_one_sample_is_too_few_for_any_batch() -> None:
    with pytest.raises(RecipeError, match=r"there is 1 training sample .*give more"):
        check_batch_size(recipe(), of(1))


def test_of_made_images_those_count_that_will_be_made() -> None:
    made = {"train": "synthetic:deep_inversion", "synthetic": {"samples": 100}, "holdout": 0.1}
    assert number_of_samples(recipe(made), of(7)) == 90
