"""subject_of: the model that a stage is about, in words, for the lineage in a report."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

from edgekd.recipe import Model
from edgekd.recipe.named import named


@runtime_checkable
class OfAModel(Protocol):
    """A stored output that says which model it is of."""

    @property
    def subject(self) -> str: ...


def subject_of(function: Callable[..., None], inputs: tuple[Any, ...]) -> str:
    """The model that the stage's decorator names by a parameter: `@stage(..., of="student")`. Empty for a stage of none.

    It enters no key. An artifact is named with the model that it is of: 'edgekd:resnet8, from export_int8'.
    """
    parameter = getattr(function, "stage_of", "")
    if not parameter:
        return ""
    return _named(inputs[list(inspect.signature(function).parameters).index(parameter)])


def _named(value: Any) -> str:
    """The name of a model, or of the first field of a record: the model of a trained one, the student of a subject."""
    if isinstance(value, Model):
        return named(value)
    if isinstance(value, OfAModel):
        return value.subject
    if is_dataclass(value) and not isinstance(value, type):
        return _named(getattr(value, fields(value)[0].name))
    return ""
