"""Columns: what train tells of a table's columns, and what turns a row into arrays by it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.base.names import in_a_line
from edgekd.base.tables import Table
from edgekd.errors import DataError
from edgekd.inputs.cells import PARTS, Cell, as_date, as_number, as_word

UNSEEN, NO_WORD = 0, 1  # the codes of a word that train has not, and of no value
WORDS = 2  # the code of the first word

Row = Mapping[str, Cell]


class Number(Table):
    """A number of each row: a column of numbers, or a part of a date.

    mean, median, std: of the values in train, in float64; present, lacking: rows of train with and without a value;
    sample: values of train in rising order, evenly spaced in rank.
    """

    column: str
    part: str = ""
    mean: float
    median: float
    std: float
    present: int
    lacking: int
    sample: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.column}.{self.part}" if self.part else self.column


class Category(Table):
    """A category of each row. Code 0 is a word that train has not, 1 is no value, 2 the first of `words`.

    counts: rows of train, by code.
    """

    column: str
    words: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of codes."""
        return WORDS + len(self.words)


class Columns(Table):
    """The columns of a table as train has them.

    read: the columns that a row is made of, in their order; dropped: columns of train that say nothing, with the reason.
    """

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    dropped: dict[str, str]

    @property
    def read(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([each.column for each in self.numbers] + [each.column for each in self.categories]))

    @cached_property
    def codes(self) -> dict[str, dict[str, int]]:
        """Column -> word -> code."""
        return {
            each.column: {word: WORDS + number for number, word in enumerate(each.words)} for each in self.categories
        }

    @cached_property
    def names(self) -> frozenset[str]:
        """The columns that train has."""
        return frozenset((*self.read, *self.dropped))

    def numbers_of(self, row: Row) -> NDArray[np.float32]:
        """The numbers float32 `[numbers]` of a row, NaN for no value. Raises ValueError for a value of another kind."""
        dates: dict[str, dict[str, float]] = {}
        values = []
        for each in self.numbers:
            try:
                if not each.part:
                    values.append(as_number(row[each.column]))
                    continue
                if each.column not in dates:
                    dates[each.column] = dict(zip(PARTS, as_date(row[each.column]), strict=True))
                values.append(dates[each.column][each.part])
            except ValueError as error:
                raise ValueError(
                    f"column {in_a_line(each.column)} holds {in_a_line(repr(row[each.column]))[:80]}, which {error}; "
                    f"in train the column holds {'dates' if each.part else 'numbers'}"
                ) from None
        return np.array(values, np.float32)

    def codes_of(self, row: Row) -> NDArray[np.int64]:
        """The codes int64 `[categories]` of a row."""
        words = [(self.codes[each.column], as_word(row[each.column])) for each in self.categories]
        return np.array([NO_WORD if word is None else codes.get(word, UNSEEN) for codes, word in words], np.int64)

    def check(self, row: Row) -> None:
        """Raise DataError if a row has other columns than train."""
        if row.keys() == self.names:
            return
        lacking, more = (
            in_a_line(", ".join(sorted(names)))[:500] for names in (self.names - row.keys(), row.keys() - self.names)
        )
        told = [f"it lacks {lacking}"] * bool(lacking) + [f"train has not {more}"] * bool(more)
        raise DataError(
            f"a table has other columns than data.train: {', and '.join(told)}; give both the same columns, or leave some out of "
            "both with data.drop"
        )


Kind = Literal["number", "category", "date"]
