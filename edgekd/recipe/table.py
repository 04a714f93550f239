"""[data] with input = "table": the keys of tables, from the columns of a CSV or parquet to the standardised numbers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from edgekd.base.texts import Shown, Text
from edgekd.recipe.data import AnyData, AnySource, Mixing, Reading
from edgekd.recipe.section import MOST, NonNegative

MISSING = ("?", "NA", "N/A", "NaN", "nan", "null", "NULL")


class TableAugmentation(Mixing):
    """The changes from a stored row to a training view. A view replays exactly (see edgekd.data.views)."""

    noise: NonNegative = Field(
        default=0.0, le=100, description="standard deviation of noise on numbers, in standard deviations of the column"
    )
    swap: float = Field(
        default=0.0, ge=0, lt=1, description="share of values that are replaced by one that the column has in train"
    )


class TableReading(Reading):
    """The settings for reading tables. The statistics of their columns are those of train."""

    input: Literal["table"] = Field(description='the kind of the samples; "table": rows of a CSV or parquet')
    column: Text | None = Field(default=None, description="not of tables: every column is read")
    numbers: tuple[Text, ...] = Field(default=(), description="columns of numbers; none: told apart by their values")
    categories: tuple[Text, ...] = Field(default=(), description="columns of categories; none: told apart as well")
    dates: tuple[Text, ...] = Field(default=(), description="columns of dates, as 2026-11-28; none: told apart as well")
    drop: tuple[Text, ...] = Field(default=(), description="columns that are not read")
    missing: tuple[Shown, ...] = Field(default=MISSING, description="texts that say no value; an empty one always does")
    min_rows: int = Field(
        default=1, ge=1, le=MOST, description="a category of fewer rows in train counts as one that train has not"
    )

    @field_validator("column")
    @classmethod
    def _no_column_holds_the_samples(cls, column: str | None) -> str | None:
        if column is not None:
            raise ValueError(
                f"{column!r} given; a row of a table is a sample: name columns to leave out under data.drop"
            )
        return column


class TableSource(TableReading, AnySource):
    """A split of a table with its settings for reading."""


class TableData(TableReading, AnyData):
    """Tables: the rows, the hold-out split, the columns, what stands for a missing number, and augmentation."""

    source_of = TableSource

    impute: Literal["median", "mean"] = Field(
        default="median", description="what of its column in train stands for a missing number, beside an indicator"
    )
    augment: TableAugmentation = Field(default=TableAugmentation(), description="augmentation of the training rows")

    @property
    def standardises(self) -> bool:
        """Whether a network gets standardised numbers; else the stored ones."""
        return True

    @model_validator(mode="after")
    def _rows_are_recorded(self) -> Self:
        if self.is_synthetic:
            raise ValueError(f"train = {self.train!r} makes images; give a table")
        return self

    @model_validator(mode="after")
    def _a_column_is_named_once(self) -> Self:
        named = [*self.numbers, *self.categories, *self.dates, *self.drop]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(
                f"numbers, categories, dates and drop name {', '.join(twice)} more than once; name a column once"
            )
        if self.label is not None and self.label in (*self.numbers, *self.categories, *self.dates):
            raise ValueError(f"label = {self.label!r} is named as a column of features too; leave it out there")
        return self


class RawTableData(TableData):
    """The data as a teacher with `raw = true` gets it: the stored numbers and codes."""

    form: Literal["raw"] = Field(default="raw", description="no key of a recipe: teacher.raw says it")

    @property
    def standardises(self) -> bool:
        return False
