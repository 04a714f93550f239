"""Cells: what a value of a table says as a number, a word or a date, by one rule for every source.

    number    digits with a sign, a point and an exponent, as 12, -3.5 or 1e6; NaN says no value, infinity is refused
    date      2026-11-28, or with a time of day as 2026-11-28 13:30; a time zone is refused, but for a Z
    word      any text without the spaces around it; of whole numbers the digits
    no value  an empty cell, a null, NaN, and the texts of data.missing

run.py, which ships alone, holds `number_in` and `date_in` in the same lines; tests/scripts/test_rows.py compares them.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np

Cell = None | int | float | str | datetime.datetime
PARTS = ("days", "year_sin", "year_cos", "week_sin", "week_cos", "day_sin", "day_cos")

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]*)?)?Z?)?")
LARGEST = 3.4e38  # of float32, about


def number_in(text: str) -> float:
    """The number that a text says. Raises ValueError with the reason for a text that says none."""
    if text.lower().lstrip("+-") in ("inf", "infinity"):
        raise ValueError("is infinite")
    if not NUMBER.fullmatch(text):
        raise ValueError("is no number")
    value = float(text)
    if abs(value) > LARGEST:
        raise ValueError("is beyond the numbers of float32")
    return value


def date_in(text: str) -> datetime.datetime:
    """The date that a text says. Raises ValueError with the reason for a text that says none."""
    found = DATE.fullmatch(text)
    if found is None:
        raise ValueError("is no date as 2026-11-28 or 2026-11-28 13:30")
    try:
        return datetime.datetime(*(int(part or 0) for part in found.groups()))  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"is no date ({error})") from None


def date_numbers(date: datetime.datetime) -> list[float]:
    """The numbers of a date, in the order of PARTS: days since 1970, then its place in the year, the week and the day."""
    day = (date.hour * 3600 + date.minute * 60 + date.second) / 86400
    days = (date - datetime.datetime(1970, 1, 1)).days + day
    numbers = [days]
    for place in ((date.timetuple().tm_yday - 1 + day) / 365.25, date.weekday() / 7, day):
        numbers += [math.sin(2 * math.pi * place), math.cos(2 * math.pi * place)]
    return numbers


def cell_of(value: Any, missing: Collection[str]) -> Cell:
    """A stored value as a cell; None for no value. Raises TypeError for what is no value of a table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        text = value.strip()
        return None if not text or text in missing else text
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | float):
        return value
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating | Decimal):
        return None if math.isnan(value) else float(value)
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    raise TypeError(type(value).__name__)


def as_number(cell: Cell) -> float:
    """The number of a cell; NaN for no value. Raises ValueError with the reason for another cell."""
    if cell is None:
        return math.nan
    if isinstance(cell, str):
        return number_in(cell)
    if isinstance(cell, datetime.datetime):
        raise ValueError("is a date, no number")
    if math.isinf(cell):
        raise ValueError("is infinite")
    if abs(cell) > LARGEST:
        raise ValueError("is beyond the numbers of float32")
    return float(cell)


def as_date(cell: Cell) -> list[float]:
    """The numbers of a cell's date; NaN for no value. Raises ValueError with the reason for another cell."""
    if cell is None:
        return [math.nan] * len(PARTS)
    if isinstance(cell, str):
        return date_numbers(date_in(cell))
    if isinstance(cell, datetime.datetime):
        return date_numbers(cell)
    raise ValueError("is a number, no date")


def as_word(cell: Cell) -> str | None:
    """The word of a cell: whole numbers without a point; None for no value."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(" ")
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
