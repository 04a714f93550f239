"""missing_files, wrong_forms: what a recipe names that is not there or has no known form, refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgekd.base.contents import matching
from edgekd.base.toml_file import Mistake
from edgekd.recipe import Model, Recipe, Section, file_of, forms, split_reference
from edgekd.recipe.forms import KINDS, form_problem


def missing_files(recipe: Recipe) -> Iterator[Mistake]:
    """A mistake for each file or folder that a located recipe names but that does not exist."""
    for place, section in _sections(recipe):
        for key in sorted(section.references):
            given = getattr(section, key)
            reference = given if isinstance(given, str) else None  # data.test may be a share of train
            # What is not a model's form is told by wrong_forms.
            is_file = reference is not None and (key != "model" or reference.partition(":")[0] in KINDS)
            file = file_of(reference) if reference is not None and is_file else None
            if file is not None and not file.exists() and not matching(file):
                yield Mistake(
                    f"{place}.{key}", f"{file} does not exist; give another path, or --set {place}.{key}=PATH"
                )


def wrong_forms(recipe: Recipe) -> Iterator[Mistake]:
    """A mistake for each model of a located recipe whose reference has no known form, or a form that cannot be trained."""
    for place, model in models_of(recipe):
        given = as_written(model.model, recipe.folder)
        if problem := form_problem(given, trains=is_trained(recipe, place), folder=recipe.folder):
            yield Mistake(f"{place}.model", problem)


def is_trained(recipe: Recipe, place: str) -> bool:
    """Whether the model of a table, as "student.assistants.0", is trained here."""
    teaches = recipe.teacher is not None and recipe.teacher.train_epochs > 0
    return forms.is_trained(tuple(place.split(".")), {"teacher": {"train_epochs": teaches}})


def models_of(recipe: Recipe) -> Iterator[tuple[str, Model]]:
    """The models of a recipe with the places of their tables, as "teacher.also.0"."""
    for place, section in _sections(recipe):
        if isinstance(section, Model):
            yield place, section


def as_written(reference: str, folder: Path) -> str:
    """A located reference with its path as it would be written in the recipe of `folder`."""
    before, file, after = split_reference(reference)
    if file is None or not file.is_relative_to(folder):
        return reference
    return f"{before}{file.relative_to(folder)}{after}"


def _sections(recipe: Recipe) -> Iterator[tuple[str, Section]]:
    """The tables that name files, with their places; those inside them too."""
    for name, section in (("data", recipe.data), ("teacher", recipe.teacher), ("student", recipe.student)):
        if section is not None:
            yield from _inside(name, section)
    for n, task in enumerate(recipe.tasks):
        yield from _inside(f"tasks.{n}", task)


def _inside(place: str, section: Section) -> Iterator[tuple[str, Section]]:
    yield place, section
    for key, value in section:
        for n, item in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(item, Section):
                yield from _inside(f"{place}.{key}{f'.{n}' if isinstance(value, tuple) else ''}", item)
