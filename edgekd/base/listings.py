"""Listings: CSV and JSONL files that list other files, as rows by column; and the files that they list."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.base.json_text import parse_json

LISTS = frozenset({".csv", ".jsonl", ".ndjson"})
METADATA = (
    "metadata.csv",
    "metadata.jsonl",
)  # beside the files of an imagefolder or audiofolder (Hugging Face datasets)
PATHS = ("path", "file", "file_name", "filename")  # the usual names of the column of files
LOOKED_AT = 100  # rows that tell whether a column names files

Rows = list[dict[str, Any]]


def rows_of_list(path: Path) -> Rows:
    """The rows of a CSV (values are texts) or of a JSONL (values of JSON), by column.

    Raises ValueError or OSError for a file that cannot be read as such.
    """
    if path.suffix.lower() != ".csv":
        return _json_rows(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as opened:
            return list(csv.DictReader(opened))
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _json_rows(path: Path) -> Rows:
    rows: Rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(
                f"line {number} is {type(row).__name__}; each line must be an object with names and values"
            )
        rows.append(row)
    return rows


def columns_of_files(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """The columns whose first values name files below `folder`, in their order."""
    names = list(dict.fromkeys(name for row in rows[:LOOKED_AT] for name in row if isinstance(name, str)))
    return [name for name in names if any(is_file_below(folder, row.get(name)) for row in rows[:LOOKED_AT])]


def files_in_list(path: Path) -> list[Path]:
    """The files that a CSV or JSONL lists in any column, sorted, as it writes them; none if it cannot be read."""
    try:
        rows = rows_of_list(path)
    except (OSError, ValueError):
        return []
    columns = columns_of_files(rows, path.parent)
    return sorted({Path(row[name]) for row in rows for name in columns if isinstance(row.get(name), str) and row[name]})


def is_file_below(folder: Path, value: object) -> bool:
    """Whether a value of a list is the path of a file, from the folder of the list."""
    if not isinstance(value, str) or not value or len(value) > 4096:
        return False
    try:
        return (folder / value).is_file()
    except (OSError, ValueError):  # a text that is no name of a file
        return False
