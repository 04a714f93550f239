"""open_table: the rows of a CSV, of JSONL, parquet, npz or a function as cells by column, with labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edgekd.base.contents import matching
from edgekd.base.listings import LISTS
from edgekd.base.names import class_problem, in_a_line
from edgekd.data.classes import of_numbers, of_texts
from edgekd.data.encoded import EncodedSplit, check_label, first_line
from edgekd.data.labels import listed_columns, targets_of
from edgekd.data.lists import read_list
from edgekd.data.npz import of_split, read_npz
from edgekd.data.parquet import class_names
from edgekd.data.sources import open_source
from edgekd.errors import DataError, nearest
from edgekd.inputs.cells import Cell, cell_of
from edgekd.recipe import AnyTask, ClassifyTask, TableSource


@dataclass(frozen=True)
class Sheet:
    """A file: values by column, and the class names in its metadata, if any."""

    path: Path
    columns: dict[str, list[Any]]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def __bool__(self) -> bool:
        return True  # a file without rows is a file too


def open_table(source: TableSource, split: str, task: AnyTask) -> EncodedSplit:
    """The rows of `data.train` or `data.test`. Raises DataError for what cannot be read, and for rows without a label."""
    if source.files.startswith("python:"):
        given = open_source(source.files, split, label=source.label, kind="table", task=task, classes=source.classes)
        names = [name for name in given.read(0) if name not in source.drop]
        return replace(given, read=lambda i: _row(given.read(i), names, source, given.name(i)))
    check_label(source.label, task, f"data.{split} = '{source.files}'")
    sheets = [_read(path, split, source, task) for path in _files(source, split)]
    labels = _labels(sheets[0], source, task)
    names = [name for name in sheets[0].columns if name not in labels and name not in source.drop]
    for sheet in sheets[1:]:
        if sheet.columns.keys() != sheets[0].columns.keys() or sheet.classes != sheets[0].classes:
            raise DataError(
                f"{sheet.path} and {sheets[0].path} have different columns or classes; they must be of the same"
            )
    if split == "train":
        for name in source.drop:
            if name not in sheets[0].columns:
                shown = map(in_a_line, sheets[0].columns)
                raise DataError(f"data.drop names {name}, which {sheets[0].path} has not{nearest(name, shown)}")
    where = [(sheet, row) for sheet in sheets for row in range(len(sheet))]

    def name_of(i: int) -> str:
        return f"{where[i][0].path} row {where[i][1]}"

    def read(i: int) -> dict[str, Cell]:
        sheet, at = where[i]
        return _row({name: sheet.columns[name][at] for name in names}, names, source, name_of(i))

    if not where:
        raise DataError(f"data.{split} = '{source.files}': no rows")
    stored = {label: [sheet.columns[label][at] for sheet, at in where] for label in labels}
    if not isinstance(task, ClassifyTask):
        targets = targets_of(task, stored, f"data.{split} = '{source.files}'")
        return EncodedSplit(targets.values, targets.names, read, name_of)
    (label,) = labels
    own = [_label_of(value, label, name_of(i), source) for i, value in enumerate(stored[label])]
    where_from = f"column {in_a_line(label)} of {sheets[0].path}"
    if sheets[0].classes and all(isinstance(each, int) for each in own):
        targets = of_numbers(np.array(own, np.int64), sheets[0].classes, source.classes, name_of, where_from)
    else:
        targets = of_texts([str(each) for each in own], source.classes, name_of, where_from)
    if isinstance(targets.values, np.ndarray) and len(targets.values) and targets.values.max() >= len(targets.names):
        row = int(targets.values.argmax())
        raise DataError(f"{name_of(row)} has label {own[row]}, and there are {len(targets.names)} classes, from 0")
    return EncodedSplit(targets.values, targets.names, read, name_of)


def _row(values: dict[str, Any], names: Sequence[str], source: TableSource, where: str) -> dict[str, Cell]:
    row: dict[str, Cell] = {}
    for name in names:
        try:
            row[name] = cell_of(values[name], source.missing)
        except TypeError as error:
            raise DataError(
                f"{where}: column {in_a_line(name)} holds a {error}; a table holds numbers, texts and dates. Leave the column out "
                f"with data.drop"
            ) from None
    return row


def _files(source: TableSource, split: str) -> list[Path]:
    path = Path(source.files)
    if path.is_file():
        return [path]
    if files := matching(path):
        return files
    raise DataError(
        f"data.{split} = '{source.files}': no such file; give a CSV, a JSONL, parquet, npz, or python:module:function "
        f"(--set data.{split}=...)"
    )


def _read(path: Path, split: str, source: TableSource, task: AnyTask) -> Sheet:
    sheet = sheet_of(path, split) or _read_parquet(path, source, task)
    names = list(sheet.columns)
    if problem := class_problem(names):
        raise DataError(f"{path}: of its columns {problem.replace('class', 'column')}")
    return sheet


def sheet_of(path: Path, split: str) -> Sheet | None:
    """The columns of a CSV, of JSONL or npz; None for another file. Raises DataError for one that cannot be read."""
    ending = path.suffix.lower()
    if ending == ".csv":
        return _read_csv(path)
    return _read_jsonl(path) if ending in LISTS else _read_npz(path, split) if ending == ".npz" else None


def _read_csv(path: Path) -> Sheet:
    try:
        with open(path, newline="", encoding="utf-8-sig") as opened:
            header, *rows = [row for row in csv.reader(opened, skipinitialspace=True) if row] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV that can be read ({first_line(error)})") from error
    names = [name.strip() for name in header]
    if len(names) < 2 or len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        told = f"names {in_a_line(', '.join(twice))} twice" if twice else "names no two columns, separated by commas"
        raise DataError(f"{path}: its first line {told}; it must name each column once")
    for at, row in enumerate(rows):
        if len(row) != len(names):
            raise DataError(f"{path} row {at} has {len(row)} values, the first line names {len(names)} columns")
    return Sheet(path, {name: [row[at] for row in rows] for at, name in enumerate(names)})


def _read_jsonl(path: Path) -> Sheet:
    """The rows of JSONL. A row without a name lacks that value."""
    rows = read_list(path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Sheet(path, {name: [row.get(name) for row in rows] for name in names})


def _read_npz(path: Path, split: str) -> Sheet:
    """The arrays of numpy: one of `[n]` is a column, one of `[n, columns]` several, as x0, x1. Others are refused."""
    columns: dict[str, list[Any]] = {}
    for name, array in of_split(read_npz(path), split).items():
        if array.ndim not in (1, 2):
            raise DataError(
                f"{path}: array {in_a_line(name)} has {array.ndim} axes; a table has arrays [n] or [n, columns]"
            )
        parts = {name: array} if array.ndim == 1 else {f"{name}{at}": array[:, at] for at in range(array.shape[1])}
        columns |= {part: values.tolist() for part, values in parts.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"{path}: its arrays must be of one length; they have {in_a_line(str(lengths))[:300]}")
    return Sheet(path, columns)


def _read_parquet(path: Path, source: TableSource, task: AnyTask) -> Sheet:
    try:
        table = pq.read_table(path)
        if len(set(table.schema.names)) < len(table.schema.names):
            raise DataError(f"{path}: it has two columns of one name; each needs a name of its own")
        columns = {name: table[name].to_pylist() for name in table.schema.names if name not in source.drop}
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: not a parquet file that can be read ({first_line(error)})") from error
    columns |= {name: [None] * len(table) for name in source.drop if name in table.schema.names}
    first, *_ = listed_columns(source.label, task, list(columns))
    return Sheet(path, columns, class_names(path, table.schema, first))


def _labels(sheet: Sheet, source: TableSource, task: AnyTask) -> tuple[str, ...]:
    """The names of the columns of labels."""
    shown = [in_a_line(name) for name in sheet.columns]
    labels = listed_columns(source.label, task, list(sheet.columns))
    for label in labels:
        if source.label is not None and label not in sheet.columns:
            raise DataError(f"{sheet.path}: no column {label}{nearest(label, shown)}")
    if labels[0] not in sheet.columns:
        raise DataError(
            f"{sheet.path}: no column {labels[0]}; name the column of labels with data.label: {', '.join(shown)[:500]}"
        )
    return labels


def _label_of(value: Any, label: str, where: str, source: TableSource) -> int | str:
    """A row's label: a whole number or a text. Raises DataError for no value, and for one of another kind."""
    cell = cell_of(value, source.missing)
    if cell is None:
        raise DataError(f"{where} has no label (column {in_a_line(label)}); give it one, or take the row out")
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, int | str):
        return cell
    raise DataError(
        f"{where} has label {in_a_line(str(cell))[:80]} (column {in_a_line(label)}); labels are whole numbers or texts, one a class"
    )
