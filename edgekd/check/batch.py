"""The batch size of a training step: never more samples than there are."""

from __future__ import annotations

from edgekd.base.console import say
from edgekd.data import Samples
from edgekd.errors import RecipeError
from edgekd.recipe import Data, Recipe

STEPS = 8  # that an epoch of few samples has at least


def batch_size_of(recipe: Recipe, samples: Samples) -> int:
    """The recipe's `distill.batch_size`; of fewer samples a smaller one in place of the default, which is told."""
    number, batch_size = number_of_samples(recipe, samples), recipe.distill.batch_size
    if batch_size <= number or "batch_size" in recipe.distill.model_fields_set:
        return batch_size
    fitting = max(2, 1 << (max(number // STEPS, 1).bit_length() - 1))  # a power of two
    say(
        f"  there are {number} training samples, fewer than the default batch of {batch_size}: batches have {fitting}; "
        "distill.batch_size decides otherwise"
    )
    return fitting


def check_batch_size(recipe: Recipe, samples: Samples) -> None:
    """Raise RecipeError for a given batch size that is larger than the number of training samples, or for one sample."""
    number, batch_size = number_of_samples(recipe, samples), recipe.distill.batch_size
    if number < 2:
        raise RecipeError(f"there is {number} training sample without the hold-out split; a batch needs 2: give more")
    if batch_size > number and "batch_size" in recipe.distill.model_fields_set:
        raise RecipeError(
            f"distill.batch_size is {batch_size}, but there are {number} training samples without the hold-out split; give "
            f"at most {number}, or leave it out"
        )


def number_of_samples(recipe: Recipe, samples: Samples) -> int:
    """The number of training samples, of made images those that will be made."""
    if isinstance(recipe.data, Data) and recipe.data.is_synthetic:
        made = recipe.data.synthetic.samples
        return made - max(1, round(made * recipe.data.holdout))
    return len(samples.train_ids)
