"""samples_for_accuracy: a bundle's test split in the form that its graph takes, for the accuracy on a device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from edgekd.base.arrays import write_arrays
from edgekd.base.toml_file import refuse
from edgekd.bundle.read import read_manifest
from edgekd.cache.stage import Cache, default_cache
from edgekd.data import decode, decode_test
from edgekd.data.draw import drawn
from edgekd.errors import BundleError
from edgekd.measure.on_device import SAMPLES, Samples
from edgekd.recipe import Recipe
from edgekd.recipe.refusals import missing_files
from edgekd.steps.export import as_input
from edgekd.steps.problem import decoded

OWN = re.compile(r"python:edgekd\.[\w.]+:\w+$")  # edgekd's own functions


def recipe_of(bundle: Path) -> Recipe:
    """The recipe in a bundle's manifest. Raises BundleError if the manifest holds none."""
    try:
        stored = read_manifest(bundle).recipe.written()
        if isinstance(student := stored.get("student"), dict):
            stored["student"] = {
                key: value for key, value in student.items() if key != "heads"
            }  # an older edgekd wrote this key
        return Recipe.model_validate(stored, strict=False).located()
    except (KeyError, ValueError, RuntimeError, OverflowError) as error:  # an unknown home, or a huge number
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{bundle} does not tell the recipe that it was built from: {reason}") from error


def _refuse_code(bundle: Path, recipe: Recipe, run: Cache) -> None:
    """Raises BundleError for a foreign function in a manifest, unless a build ran it here.

    A manifest may name any function, so only edgekd's own are run.
    """
    foreign = [
        name
        for name in (recipe.data.train, recipe.data.test)
        if isinstance(name, str) and name.startswith("python:") and not OWN.match(name)
    ]
    if foreign and not _are_kept(recipe, run):
        raise BundleError(
            f"the samples of {bundle} are made by {foreign[0]!a}, and a function that a bundle names is not run; build its recipe here "
            "(edgekd build), which keeps the samples in the cache"
        )


def _are_kept(recipe: Recipe, run: Cache) -> bool:
    """Whether the cache holds both splits, so that opening them runs no function."""
    source, tested = recipe.data.source("train"), recipe.data.source("test")
    labels = recipe.task.of_labels
    return run.has(decode, source, labels) and run.has(decode_test, tested, labels, run(decode, source, labels))


@contextmanager
def samples_for_accuracy(bundle: Path, most: int | None = None) -> Iterator[Samples]:
    """The test samples of a bundle's recipe as its graph takes them, or `most` of them.

    `most` samples are drawn by the recipe's data.seed, each class in its share. Cached samples are used if present. Raises
    BundleError if the manifest holds no recipe, RecipeError if the recipe's data is no longer here.
    """
    recipe = recipe_of(bundle)
    refuse(f"recipe {recipe.name} of {bundle}", [m for m in missing_files(recipe) if m.place.startswith("data.")])
    with Cache(default_cache(), f"accuracy of {bundle}") as run, TemporaryDirectory(prefix="edgekd-") as folder:
        _refuse_code(bundle, recipe, run)
        test = decoded(run, recipe.data, recipe.task).open_test()
        labels = test.labels
        ids = drawn(test.task.strata(labels), len(labels), len(labels) if most is None else most, recipe.data.seed)
        file = Path(folder) / SAMPLES
        write_arrays(file, as_input(test.input, test.get(ids), recipe.export))
        yield Samples(file, labels[ids], test.task, recipe.task.kind)
