"""Section: the form that all tables of a recipe have, and the numbers that they hold."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from edgekd.base.tables import Table

MOST = 10**9  # the largest number that a setting may have
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Section(Table):
    """A table of the recipe: immutable; an unknown key is an error.

    Three sets of field names say what enters the key of a stage (edgekd.cache.stage). references: the content of the
    named file enters instead of its path. shapes_nothing: the field does not enter. decoded: the field does not enter,
    because the key of the decoded samples already covers it.

    suffixes: the files that count in a folder that a reference names. libraries: packages whose versions enter the key,
    because they shape what is read.
    """

    references: ClassVar[frozenset[str]] = frozenset()
    shapes_nothing: ClassVar[frozenset[str]] = frozenset()
    decoded: ClassVar[frozenset[str]] = frozenset()
    suffixes: ClassVar[frozenset[str] | None] = None
    libraries: ClassVar[tuple[str, ...]] = ()
