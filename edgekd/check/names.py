"""check_known: refuses models whose names or functions do not exist, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator

from edgekd.base.toml_file import Mistake, refuse
from edgekd.errors import ModelError
from edgekd.models.reference import BUILT_IN, check_reference
from edgekd.recipe import Recipe, file_of
from edgekd.recipe.forms import form_problem
from edgekd.recipe.refusals import as_written, is_trained, models_of


def check_known(recipe: Recipe) -> None:
    """Raise RecipeError with every model of a located recipe that does not exist."""
    refuse(f"recipe {recipe.name}", [Mistake(recipe.where(found.place), found.text) for found in unknown_names(recipe)])


def unknown_names(recipe: Recipe) -> Iterator[Mistake]:
    """A mistake for each model with a name or a function that does not exist. Files with functions are imported."""
    for place, model in models_of(recipe):
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
