"""learned: the columns of a table, told apart by the recipe or by the values of train, with their statistics."""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgekd.base.console import say
from edgekd.base.names import LONGEST_CLASS, in_a_line, text_problem
from edgekd.errors import DataError, nearest
from edgekd.inputs.cells import PARTS, Cell, as_date, as_number, as_word
from edgekd.inputs.columns import Category, Columns, Kind, Number, Row
from edgekd.recipe import TableReading

SAMPLE = 65  # values of train that a number keeps
NEARLY = 0.9  # of a column's texts: if as many are numbers, and not all, the others are mistakes
MOST_WORDS = 1 << 20
CODE = re.compile(r"[+-]?0[0-9]")  # begins a number as nobody writes one, but codes are written
FEW = 50  # a column of texts with more different ones than this, and than half of its rows, is no category
T = TypeVar("T")


def learned(rows: Sequence[Row], reading: TableReading) -> Columns:
    """The columns of train's rows, printed. Raises DataError for columns that cannot be told apart, or say nothing."""
    names = tuple(rows[0])
    _check_named(names, reading)
    numbers: list[Number] = []
    categories: list[Category] = []
    dropped: dict[str, str] = {}
    for name in names:
        cells = [row[name] for row in rows]
        kind = kind_of(name, cells, reading)
        if kind == "category":
            category = _category(name, cells, reading)
            if len(category.words) > 1 or (category.words and (category.counts[0] or category.counts[1])):
                categories.append(category)
                continue
        elif found := list(_numbers(name, kind, cells)):
            numbers += found
            continue
        else:
            _refuse_others(name, kind, cells)
        present = sum(cell is not None for cell in cells)
        dropped[name] = "one value in every row" if present else "no value in any row"
    columns = Columns(numbers=tuple(numbers), categories=tuple(categories), dropped=dropped)
    _tell(columns)
    if not columns.read:
        if not names:
            raise DataError("data.train has no other columns than the labels; there is nothing to learn from")
        raise DataError("no column of data.train is left to learn from: each holds one value, or none")
    return columns


def _check_named(names: tuple[str, ...], reading: TableReading) -> None:
    """Raise DataError for a column that the recipe names and train has not."""
    for key in ("numbers", "categories", "dates"):
        for name in getattr(reading, key):
            if name not in names:
                raise DataError(
                    f"data.{key} names {name}, which data.train has not{nearest(name, map(in_a_line, names))}"
                )


def kind_of(name: str, cells: Sequence[Cell], reading: TableReading) -> Kind:
    """The kind of a column: as the recipe says, or else by its values. Raises DataError for one that is doubtful."""
    for kind, named in _named(reading).items():
        if name in named:
            return kind
    present = [cell for cell in cells if cell is not None]
    if all(isinstance(cell, int | float) for cell in present):
        return "number"
    if all(isinstance(cell, datetime.datetime) for cell in present) or _most(present, as_date) == len(present):
        return "date"
    numeric = _most(present, _as_plain_number)
    if numeric == len(present):
        return "number"
    shown = in_a_line(name)
    if numeric >= NEARLY * len(present):
        row = next(i for i, cell in enumerate(cells) if cell is not None and not _reads(cell, _as_plain_number))
        raise DataError(
            f"column {shown} of data.train holds numbers, but in {len(present) - numeric} of {len(cells)} rows; the first is row {row}: "
            f"{in_a_line(repr(cells[row]))[:80]}. Mend them, add such a text to data.missing, or name the column under data.categories"
        )
    different = len({as_word(cell) for cell in present})
    if different > FEW and different > len(present) / 2:
        raise DataError(
            f"column {shown} of data.train holds {different} different texts in {len(cells)} rows, which is no category: leave it out "
            f'(data.drop = ["{shown}"]), or name it under data.categories with data.min_rows'
        )
    return "category"


def _named(reading: TableReading) -> Mapping[Kind, tuple[str, ...]]:
    return {"number": reading.numbers, "category": reading.categories, "date": reading.dates}


def _as_plain_number(cell: Cell) -> float:
    """The number of a cell. Raises ValueError for another cell, and for a code as 0151."""
    if isinstance(cell, str) and CODE.match(cell):
        raise ValueError("is a code")
    return as_number(cell)


def _reads(cell: Cell, read: Callable[[Cell], object]) -> bool:
    try:
        read(cell)
    except ValueError:
        return False
    return True


def _most(cells: Sequence[Cell], read: Callable[[Cell], object]) -> int:
    """How many cells `read` takes. Of many that it takes none of at first, not all are tried."""
    if cells and not any(_reads(cell, read) for cell in cells[:100]):
        return 0
    return sum(_reads(cell, read) for cell in cells)


def _category(name: str, cells: Sequence[Cell], reading: TableReading) -> Category:
    counts = Counter(as_word(cell) for cell in cells)
    missing = counts.pop(None, 0)
    words = sorted(word for word, n in counts.items() if word is not None and n >= reading.min_rows)
    if len(words) > MOST_WORDS:
        raise DataError(
            f"column {in_a_line(name)} has {len(words)} categories; at most {MOST_WORDS} are possible: leave it out"
        )
    for word in words:
        if problem := text_problem(word, LONGEST_CLASS):
            raise DataError(f"column {in_a_line(name)} holds {in_a_line(repr(word))[:80]}: {problem}")
    rare = sum(n for word, n in counts.items() if n < reading.min_rows)
    return Category(column=name, words=tuple(words), counts=(rare, missing, *(counts[word] for word in words)))


def _numbers(name: str, kind: Kind, cells: Sequence[Cell]) -> Iterator[Number]:
    """The numbers of a column that are not the same in every row. What does not read is refused when rows are decoded."""
    if kind == "number":
        values = {"": np.array([_or_none(cell, as_number, math.nan) for cell in cells], np.float32)}
    else:
        parts = np.array([_or_none(cell, as_date, [math.nan] * len(PARTS)) for cell in cells], np.float32)
        values = dict(zip(PARTS, parts.T, strict=True))
    for part, found in values.items():
        present = found[~np.isnan(found)]
        lacking = len(found) - len(present)
        if not len(present) or (present.min() == present.max() and (not lacking or part)):
            continue
        yield _number(name, part, present, lacking)


def _refuse_others(name: str, kind: Kind, cells: Sequence[Cell]) -> None:
    """Raise DataError for a column that says nothing as numbers or dates because it holds something else."""
    read = as_number if kind == "number" else as_date
    row = next((i for i, cell in enumerate(cells) if cell is not None and not _reads(cell, read)), None)
    if row is not None:
        raise DataError(
            f"column {in_a_line(name)} of data.train is named under data.{kind}s, but row {row} holds {in_a_line(repr(cells[row]))[:80]}, "
            f"which is no {kind}: take it out of data.{kind}s, or name it under data.categories"
        )


def _or_none(cell: Cell, read: Callable[[Cell], T], none: T) -> T:
    try:
        return read(cell)
    except ValueError:
        return none


def _number(name: str, part: str, present: npt.NDArray[np.float32], lacking: int) -> Number:
    """The statistics of float32 values, in float64. One value that is lacking elsewhere is told by its indicator alone."""
    exact = np.sort(present.astype(np.float64))
    sample = exact[np.linspace(0, len(exact) - 1, SAMPLE).round().astype(np.int64)]
    return Number(
        column=name,
        part=part,
        mean=float(exact.mean()),
        median=float(np.median(exact)),
        std=float(exact.std()) or 1.0,
        present=len(exact),
        lacking=lacking,
        sample=tuple(sample.tolist()),
    )


def _tell(columns: Columns) -> None:
    """Print the columns by their kinds, so that a wrong guess is seen."""
    numbers = [each.column for each in columns.numbers if not each.part]
    dates = list(dict.fromkeys(each.column for each in columns.numbers if each.part))
    categories = [f"{each.column} ({len(each.words)})" for each in columns.categories]
    for title, names in (("numbers", numbers), ("dates", dates), ("categories", categories)):
        if names:
            say(f"  {len(names)} {title}: {', '.join(map(in_a_line, names))}")
    for name, why in columns.dropped.items():
        say(f"  {in_a_line(name)} is not read: {why} of train")
