"""load_target, list_targets: read targets/*.toml and the user's own files; every mistake of a file at once, with its line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import ValidationError

from edgekd.base.places import expanded
from edgekd.base.toml_file import Places, as_json, date_mistakes, parse_toml, read_text, refuse, validation_mistakes
from edgekd.errors import RecipeError, nearest
from edgekd.target.tables import Target


def load_target(name: str) -> Target:
    """The target of a name or alias, or of the user's own file (a path that ends in .toml).

    Raises RecipeError for an unknown name, with the nearest names, and for a file with mistakes, with all of them.
    """
    if name.endswith(".toml"):
        return read_target(expanded(name))
    known = {called: target for target in list_targets() for called in (target.name, *target.aliases)}
    if name.lower() not in known:
        here = f"{name}.toml"
        if os.path.isfile(here):  # the name of a user's own file, without its ending
            raise RecipeError(f"target {name!r} not found; a target file is named with its ending: {here}")
        names = [target.name for target in list_targets()]
        raise RecipeError(
            f"target {name!r} not found{nearest(name.lower(), names, also=sorted(known.keys() - set(names)))}"
        )
    return known[name.lower()]


def list_targets() -> list[Target]:
    """The targets that come with edgekd, in the order of their names."""
    return list(_own_targets())


@cache
def _own_targets() -> tuple[Target, ...]:
    return tuple(read_target(file) for file in sorted(_target_files(), key=lambda file: file.name))


def _target_files() -> Iterator[Traversable]:
    folder: Traversable = files("edgekd") / "targets"
    if not folder.is_dir():  # a checkout: the wheel alone has the folder inside the package
        folder = Path(__file__).parents[2] / "targets"
    return (file for file in folder.iterdir() if file.name.endswith(".toml"))


def read_target(file: Traversable) -> Target:
    """The target of a file. Raises RecipeError with all mistakes of the file, each with its line."""
    if file.is_dir():
        raise RecipeError(f"target file {file} is a folder; give a target's name, or the path of a target's .toml")
    if not file.is_file():
        raise RecipeError(f"target file {file} does not exist; give a target's name, or the path of a target's .toml")
    text = read_text(file)
    document = parse_toml(text, file.name)
    places = Places(file.name, text)
    mistakes = date_mistakes(document, places)
    try:
        target = Target.model_validate_json(as_json(document), strict=True)
    except ValidationError as error:
        mistakes += validation_mistakes(error, Target, places)
    refuse(str(file), mistakes)
    return target
