"""from_lists: the files that a CSV or JSONL lists with their labels, by paths from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.base.listings import PATHS, is_file_below, rows_of_list
from edgekd.base.names import in_a_line
from edgekd.data.classes import of_texts
from edgekd.data.encoded import EncodedSplit, Wanted, first_line
from edgekd.data.labels import Lazily, Targets, listed_columns, targets_of
from edgekd.errors import DataError
from edgekd.inputs import Files
from edgekd.recipe import AnyTask, ClassifyTask, SegmentTask


def from_lists(paths: Sequence[Path], kind: Files, wanted: Wanted) -> EncodedSplit:
    """The files of several lists, one after the other. Classes are the texts of the label column, in order.

    Raises DataError for a list that cannot be read, a column that is missing, and a row without a file or a label.
    """
    task = wanted.task
    rows = [(path, at, row) for path in paths for at, row in enumerate(read_list(path))]
    names = list(dict.fromkeys(name for _, _, row in rows for name in row))
    file = wanted.column or next((name for name in PATHS if name in names), "path")
    labels = listed_columns(wanted.label, task, names)
    for asked in (file, *labels):
        if asked not in names:
            shown = in_a_line(", ".join(map(str, names)))[:500]
            raise DataError(
                f"{paths[0]}: no column {asked}; its first line must name one of files and one of labels: {shown}"
                if paths[0].suffix.lower() == ".csv"
                else f"{paths[0]}: no name {asked}; each line must have one of a file and one of labels: {shown}"
            )
    for path, at, row in rows:
        if not row.get(file) or (task.kind != "multilabel" and any(row.get(name) in (None, "") for name in labels)):
            raise DataError(f"{path} row {at}: no {'label' if row.get(file) else 'file'}")
    files = [_file(path, at, row[file], kind.one) for path, at, row in rows]

    def name_of(i: int) -> str:
        return f"{rows[i][0]} row {rows[i][1]}: {files[i].name}"

    if isinstance(task, SegmentTask):
        masks = [_file(path, at, row[labels[0]], "mask") for path, at, row in rows]
        targets = Targets(Lazily(len(masks), lambda i: masks[i].read_bytes()), task.classes)
    else:
        columns = {name: [row.get(name) for _, _, row in rows] for name in labels}
        targets = _targets(columns, wanted, str(paths[0]), task, name_of)
    return EncodedSplit(targets.values, targets.names, lambda i: files[i].read_bytes(), name_of)


def read_list(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV or JSONL. Raises DataError for a file that cannot be read."""
    try:
        return rows_of_list(path)
    except (OSError, ValueError) as error:
        kind = "CSV" if path.suffix.lower() == ".csv" else "JSONL"
        raise DataError(f"{path}: not a {kind} that can be read ({first_line(error)})") from error


def _targets(columns: dict[str, list[Any]], wanted: Wanted, where: str, task: AnyTask, name_of: Any) -> Targets:
    if not isinstance(task, ClassifyTask):
        return targets_of(task, columns, where)
    ((label, values),) = columns.items()
    for row, value in enumerate(values):
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise DataError(
                f"{name_of(row)} has label {in_a_line(repr(value))[:80]} ({in_a_line(label)}); a label is a text or a whole number"
            )
    return of_texts([str(value).strip() for value in values], wanted.classes, name_of, where)


def _file(path: Path, at: int, name: Any, one: str) -> Path:
    """The file that a row names. Raises DataError for a file that does not exist."""
    if not isinstance(name, str):
        raise DataError(f"{path} row {at}: {in_a_line(repr(name))[:80]} names no {one}; write the path of a file")
    file = path.parent / name
    if not is_file_below(path.parent, name):
        kind = "CSV" if path.suffix.lower() == ".csv" else "JSONL"
        raise DataError(
            f"{path} row {at}: {in_a_line(str(file))[:500]} does not exist; paths start at the folder of the {kind}"
        )
    return file
