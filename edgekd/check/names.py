"""check_known: refuses models whose names, functions or weights do not exist, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgekd.base.toml_file import Mistake, refuse
from edgekd.errors import ModelError
from edgekd.models.reference import BUILT_IN, check_reference
from edgekd.models.weight_files import read_weights
from edgekd.recipe import Recipe, file_of
from edgekd.recipe.forms import form_problem
from edgekd.recipe.refusals import as_written, is_trained, models_of


def check_known(recipe: Recipe) -> None:
    """Raise RecipeError with every model of a located recipe that does not exist."""
    refuse(f"recipe {recipe.name}", [Mistake(recipe.where(found.place), found.text) for found in unknown_names(recipe)])


def unknown_names(recipe: Recipe) -> Iterator[Mistake]:
    """A mistake for each model with a name or a function that does not exist, and for each file that holds no weights.

    Files with functions are imported, and files of weights are read. Whether weights fit their model is seen later.
    """
    for place, model in models_of(recipe):
        if model.weights is not None and Path(model.weights).is_file():  # missing_files tells one that is not there
            try:
                read_weights(Path(model.weights))
            except ModelError as error:
                yield Mistake(f"{place}.weights", str(error))
        given = as_written(model.model, recipe.folder)
        if given in BUILT_IN:
            yield Mistake(f"{place}.model", f'it is a student of edgekd: write "edgekd:{given}"')
            continue
        file = file_of(model.model)
        if file is not None and not file.exists():  # missing_files tells it
            continue
        if form_problem(given, trains=is_trained(recipe, place), folder=recipe.folder) is None:
            try:
                check_reference(model)
            except ModelError as error:
                yield Mistake(f"{place}.model", str(error))
