"""of_rows: what a table decides of a recipe: its label, and its columns by their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from edgekd.base.contents import matching
from edgekd.base.names import in_a_line
from edgekd.data.encoded import EncodedSplit, listed
from edgekd.data.parquet import schema_of
from edgekd.data.tables import open_table, sheet_of
from edgekd.errors import DataError
from edgekd.inputs.cells import number_in
from edgekd.inputs.learn_columns import kind_of
from edgekd.recipe import AnyTask, ClassifyTask, RegressTask, TableSource
from edgekd.start.data_sets import DataSet
from edgekd.start.draft import Draft, answers, batch_line, counted, doubts, line, text, texts
from edgekd.start.guess import LABELS, VALUES, Guess, first_values, number_of, task_of, unless_usual

MANY = 100  # different whole numbers beyond this, and than a twentieth of the rows, are values and no classes
MOST_ROWS = 1_000_000  # of parquet, that tell whether labels are classes or values
KINDS = {"number": "numbers", "category": "categories", "date": "dates"}


def of_rows(found: DataSet) -> Draft:
    """The lines of a recipe for a table. Raises DataError for a table that cannot be read, or that holds texts alone."""
    names, values_of = _columns(found.at(found.train))
    if len(names) < 2:
        raise DataError(
            f"{found.train}: one column, {in_a_line(''.join(names))}; a table has columns to learn from and one of labels"
        )
    if values := [name for name in names if _is_number(name)]:
        raise DataError(
            f"{found.train}: its first line holds values, as {in_a_line(values[0])[:40]}; write a line with the names of the columns above it"
        )
    label, guessed = _label(names)
    guess = _guess(label, values_of(label), names)
    task: AnyTask = RegressTask(kind="regress") if guess.task == "regress" else ClassifyTask()
    train = _open(found, found.train, "train", label, task, ())
    kinds, dropped = kinds_of(train)
    if not any(kinds.values()):
        why = "; ".join(f"{in_a_line(name)} {reason}" for name, reason in list(dropped.items())[:3])
        raise DataError(
            f"{found.train}: no column is left to learn from ({why}); edgekd reads numbers, categories and dates, and "
            "has no input for texts"
        )
    test = _open(found, found.test, "test", label, task, tuple(dropped)) if found.test else None
    data = [line("label", text(guess.label))] if guess.label else []
    data += [line(key, texts(of)) for key, of in kinds.items() if of]
    if dropped:
        data.append(line("drop", texts(list(dropped)), "not read: neither numbers, categories nor dates, or an index"))
    told = [counted(found, train, test, "rows")]
    shown = f"column {in_a_line(label)}{', the last one: no name tells' if guessed else ''}"
    told.append(answers(guess, train, shown))
    told += [f"{len(of)} {key}: {in_a_line(listed(of))}" for key, of in kinds.items() if of]
    told += [f"left out: {in_a_line(name)}, which {why}" for name, why in dropped.items()]
    return Draft(
        guess=guess,
        before=(line("input", '"table"'),),
        data=tuple(data),
        task=(line("kind", '"regress"', "an output is the value itself: scale values to a few units"),)
        if guess.task == "regress"
        else (),
        student="edgekd:mlp",
        instead="also edgekd:ft-transformer, python:",
        distill=(*batch_line(len(train)), line("optimizer", '{ name = "adamw", lr = 0.002, weight_decay = 1e-4 }')),
        told=(*told, *doubts(guess, train, test)),
    )


def _guess(label: str, values: Sequence[Any], names: Sequence[str]) -> Guess:
    task: Literal["regress", "classify"] = "regress" if _are_values(values) else "classify"
    return Guess("table", task, label=unless_usual(label, task, names))


def kinds_of(train: EncodedSplit) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The columns by the recipe's key for their kind, and those to leave out with the reason."""
    reading = TableSource.model_construct(input="table", files="")
    rows = [train.read(i) for i in range(len(train))]
    kinds: dict[str, list[str]] = {key: [] for key in KINDS.values()}
    dropped: dict[str, str] = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        if is_count(cells):
            dropped[name] = "numbers the rows"
            continue
        try:
            kinds[KINDS[kind_of(name, cells, reading)]].append(name)
        except DataError as error:
            reason = str(error).partition(" of data.train ")[2] or str(error)
            dropped[name] = reason.partition(": leave it out")[0].partition("; the first")[0]
    return kinds, dropped


def is_count(cells: Sequence[Any]) -> bool:
    """Whether whole numbers rise by one from row to row, as an index does."""
    try:
        numbers = [int(cell) for cell in cells]
    except (TypeError, ValueError, OverflowError):
        return False
    return len(numbers) > 10 and all(b - a == 1 for a, b in pairwise(numbers))


def _is_number(text: str) -> bool:
    try:
        number_in(text)
    except ValueError:
        return False
    return True


def _are_values(values: Sequence[Any]) -> bool:
    """Whether labels are values: broken numbers, or whole ones of which there are very many."""
    if task_of(values) == "regress":
        return True
    numbers = [number_of(value) for value in values if value is not None]
    different = len(set(numbers))
    return None not in numbers and different > MANY and different > len(numbers) / 20


def _label(names: Sequence[str]) -> tuple[str, bool]:
    """The column of labels, and whether nothing but its place tells so."""
    by_name = {name.lower(): name for name in reversed(names)}
    usual = next((by_name[name] for name in (*LABELS, *VALUES) if name in by_name), None)
    return (usual, False) if usual else (names[-1], True)


def _columns(reference: str) -> tuple[list[str], Any]:
    """The names of the columns, and a function from a name to the values of the first file."""
    path = Path(reference)
    (file, *_) = [path] if path.is_file() else matching(path)
    sheet = sheet_of(file, "train")
    if sheet is not None:
        return list(sheet.columns), sheet.columns.__getitem__
    names = list(schema_of(file).names)
    return names, lambda name: first_values(file, name, MOST_ROWS)


def _open(found: DataSet, reference: str, split: str, label: str, task: AnyTask, drop: tuple[str, ...]) -> EncodedSplit:
    # Names are checked where the recipe is loaded.
    source = TableSource.model_construct(input="table", files=found.at(reference), label=label, drop=drop)
    return open_table(source, split, task)
