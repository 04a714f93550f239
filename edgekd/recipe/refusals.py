"""missing_files: the files and folders of a recipe that do not exist, refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from edgekd.base.contents import matching
from edgekd.base.toml_file import Mistake
from edgekd.recipe import Recipe, Section, file_of

MODEL_FORMS = ("edgekd", "python", "timm", "onnx", "exported")


def missing_files(recipe: Recipe) -> Iterator[Mistake]:
    """A mistake for each file or folder that a located recipe names but that does not exist."""
    for name, section in (("data", recipe.data), ("teacher", recipe.teacher), ("student", recipe.student)):
        if section is not None:
            yield from _missing_in(name, section)
    for n, task in enumerate(recipe.tasks):
        yield from _missing_in(f"tasks.{n}", task)


def _missing_in(place: str, section: Section) -> Iterator[Mistake]:
    for key in sorted(section.references):
        given = getattr(section, key)
        reference = given if isinstance(given, str) else None  # data.test may be a share of train
        # A word that is not a path is refused when models are loaded: that code knows their names.
        is_file = reference is not None and (key != "model" or reference.partition(":")[0] in MODEL_FORMS)
        file = file_of(reference) if reference is not None and is_file else None
        if file is not None and not file.exists() and not matching(file):
            yield Mistake(f"{place}.{key}", f"{file} does not exist; give another path, or --set {place}.{key}=PATH")
    for key, value in section:
        for n, item in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(item, Section):
                yield from _missing_in(f"{place}.{key}{f'.{n}' if isinstance(value, tuple) else ''}", item)
