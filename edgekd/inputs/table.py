"""Table: rows of numbers, categories and dates. Code that only concerns tables belongs here and in the files that this one imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.base.draws import Floats, Ids
from edgekd.errors import DataError
from edgekd.inputs.columns import Columns, Row
from edgekd.inputs.files import Files, Learning, Shapes
from edgekd.inputs.learn_columns import learned
from edgekd.inputs.protocol import Arrays, Field
from edgekd.inputs.table_views import changed_codes, changed_numbers
from edgekd.recipe import TableData, TableReading

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from torch import nn

NUMBERS, CATEGORIES = "numbers", "categories"


@dataclass(frozen=True)
class Table:
    """Rows: numbers float32 `[numbers]` with NaN for no value, and codes of categories int64 `[categories]`.

    A network reads the numbers standardised, with indicators of missing ones behind them, and the codes as they are. A
    table without numbers or categories has no such array.
    """

    columns: Columns
    data: TableData

    @classmethod
    def of(cls, shapes: Mapping[str, list[int]], data: TableData, columns: Columns) -> Table:
        """The rows of a decoded split, by the columns of train."""
        return cls(columns, data)

    @property
    def noun(self) -> str:
        return "rows"

    @property
    def fields(self) -> tuple[Field, ...]:
        numbers, categories = len(self.columns.numbers), len(self.columns.categories)
        fields = (Field(NUMBERS, "float32", (numbers,)), Field(CATEGORIES, "int64", (categories,)))
        return tuple(field for field in fields if field.shape != (0,))

    @property
    def indicated(self) -> tuple[int, ...]:
        """The numbers that have an indicator: those that some rows of train lack."""
        return tuple(at for at, number in enumerate(self.columns.numbers) if number.lacking)

    @property
    def arguments(self) -> tuple[Field, ...]:
        if not self.columns.numbers or not self.data.standardises:
            return self.fields
        others = self.fields[1:]
        return (Field(NUMBERS, "float32", (len(self.columns.numbers) + len(self.indicated),)), *others)

    @property
    def offers(self) -> Mapping[str, Any]:
        """The width of the numbers, the number of codes of each category, and the columns if a teacher gets them raw."""
        given = {field.name: field.shape[0] for field in self.arguments}
        sizes = tuple(category.size for category in self.columns.categories)
        offers = {"numbers": given.get(NUMBERS, 0), "categories": sizes}
        return offers if self.data.standardises else {**offers, "columns": self.columns}

    def mistakes(self) -> Mapping[str, str]:
        """A mistake for mix-up of rows with categories."""
        if self.data.augment.mixup and self.columns.categories:
            why = "a category lies between no two others: leave it out, or write augment.swap"
            return {"augment.mixup": f"is {self.data.augment.mixup:g}, and {why}"}
        return {}

    def read(self, stored: Row) -> Arrays:
        """The arrays of a row, by name of its columns."""
        return arrays_of(stored, self.columns)

    def view(self, raw: Arrays, ids: Ids, view: int, seed: int) -> Arrays:
        """The rows as `augment` changes them."""
        augment, columns, changed = self.data.augment, self.columns, dict(raw)
        if NUMBERS in raw:
            changed[NUMBERS] = changed_numbers(raw[NUMBERS], columns.numbers, augment, ids, view, seed)
        if CATEGORIES in raw:
            changed[CATEGORIES] = changed_codes(raw[CATEGORIES], columns.categories, augment, ids, view, seed)
        return changed

    def moved(self, maps: NDArray[Any], ids: Ids, view: int, seed: int, outside: int) -> NDArray[Any]:
        raise TypeError("rows have no maps")

    def mixed(self, raw: Arrays, partners: Arrays, share: Floats) -> Arrays:
        """The weighted sums of the numbers of rows and partners; a table with categories is not mixed (`mistakes`)."""
        weight = share.astype(np.float32)[:, None]
        return {NUMBERS: weight * raw[NUMBERS] + (1 - weight) * partners[NUMBERS]}

    def preprocess(self) -> nn.Module:
        """The numbers standardised, float32 `[n, numbers + indicators]`, and the codes unchanged."""
        from edgekd.inputs.standardise import AsTheyAre, Standardise

        numbers = self.columns.numbers
        if not numbers or not self.data.standardises:
            return AsTheyAre()
        fill = [number.mean if self.data.impute == "mean" else number.median for number in numbers]
        return Standardise(fill, [each.mean for each in numbers], [each.std for each in numbers], self.indicated)


def arrays_of(row: Row, columns: Columns) -> Arrays:
    """The arrays of a row. Raises ValueError for a value that is none of its column, DataError for other columns."""
    columns.check(row)
    arrays: dict[str, NDArray[Any]] = {}
    if columns.numbers:
        arrays[NUMBERS] = columns.numbers_of(row)
    if columns.categories:
        arrays[CATEGORIES] = columns.codes_of(row)
    return arrays


def decoded(row: Row, reading: TableReading, columns: Columns) -> tuple[Arrays, tuple[str, ...]]:
    """The arrays of a row, with remarks."""
    arrays, remarks = arrays_of(row, columns), []
    lacking = np.isnan(arrays[NUMBERS]) if columns.numbers else np.zeros(0, bool)
    if lacking.any():
        remarks.append("lack a number")
    if any(lacks and not number.lacking for lacks, number in zip(lacking, columns.numbers, strict=False)):
        remarks.append("lack a number that no row of train lacks")
    if columns.categories and (arrays[CATEGORIES] == 1).any():
        remarks.append("lack a category")
    if columns.categories and (arrays[CATEGORIES] == 0).any():
        remarks.append("have an unknown category")
    return arrays, tuple(remarks)


def another_shape(name: str, sample: Arrays, first: Shapes) -> str:
    """The error text for a row of another shape; the columns are compared before."""
    return f"{name} has {sample}, rows of train have {dict(first)}"


def given(samples: Any, where: str) -> list[dict[str, Any]]:
    """The rows of the columns that a python function gave. Raises DataError for what is no table."""
    try:
        columns = {str(name): list(values) for name, values in samples.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: a table must be a dict of columns by their names; it is {type(samples).__name__}"
        ) from error
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"{where}: columns must be of one length, at least one; they have {lengths}"[:500])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


FILES = Files(
    one="row",
    many="rows",
    columns=(),
    suffixes=frozenset({".csv", ".parquet"}),
    value_bytes=8,
    decoded=decoded,
    another_shape=another_shape,
    given=given,
    learning=Learning(Columns, learned),
)
