"""named, file_name: a model of a recipe in a few words, without the user's folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.base.toml_file import shown
from edgekd.recipe.recipe import Model, split_reference


def named(model: Model) -> str:
    """The reference, the weights and the arguments of a model: 'edgekd:resnet8 (width 8)'."""
    weights = f", weights {file_name(model.weights)}" if model.weights else ""
    return f"{file_name(model.model)}{weights}" + (f" ({in_words(model.args)})" if model.args else "")


def file_name(reference: str) -> str:
    """The reference with the file's name alone: the user's folders do not belong in a report."""
    before, file, after = split_reference(reference)
    return reference if file is None else f"{before}{Path(file).name}{after}"


def in_words(values: Mapping[str, Any]) -> str:
    """Settings as a list: 'width 8, depth 2'. A setting of None is left out."""
    told = (
        f"{key} {value if isinstance(value, str) else shown(value)}"
        for key, value in values.items()
        if value is not None
    )
    return ", ".join(told)
