"""guess: what the samples of a data set are, and which columns hold them and their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from edgekd.base.contents import IMAGE_SUFFIXES, SOUND_SUFFIXES, files_below, matching
from edgekd.base.json_text import parse_json
from edgekd.base.listings import LISTS, METADATA, PATHS, columns_of_files
from edgekd.base.names import in_a_line
from edgekd.data.encoded import first_line, listed
from edgekd.data.labels import COLUMNS, SEPARATOR
from edgekd.data.lists import read_list
from edgekd.data.npz import read_npz
from edgekd.data.parquet import holds_files, schema_of
from edgekd.data.tars import groups_of
from edgekd.errors import DataError
from edgekd.inputs import INPUTS

Task = Literal["classify", "multilabel", "regress", "segment"]
SOUNDS = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"FORM")  # how files of sounds begin
LABELS = ("label", "labels", "class", "category", "target", "y")
VALUES = ("value", "score", "target", "y")
LOOKED_AT = 2000  # rows that tell what a column of labels holds


@dataclass(frozen=True)
class Guess:
    """What a data set holds. column, label: the names of columns, where they are not found without being named.

    classes: the names that the file has for the numbers in its masks.
    """

    kind: Literal["image", "audio", "table"]
    task: Task = "classify"
    column: str | None = None
    label: str | None = None
    classes: tuple[str, ...] = ()


def guess(reference: str) -> Guess:
    """What the samples of a path or pattern are. Raises DataError for what edgekd has no input or no task for."""
    path = Path(reference)
    if path.is_dir():
        return _of_folder(path)
    (file, *_) = [path] if path.is_file() else matching(path)
    if file.suffix.lower() in LISTS:
        return _of_list(file)
    if file.suffix.lower() == ".npz":
        return _of_npz(file)
    return _of_tar(file) if file.suffix.lower() == ".tar" else _of_parquet(file)


def kind_of_file(name: str) -> Literal["image", "audio"] | None:
    """The kind of a file by its ending."""
    ending = Path(name).suffix.lower()
    return "image" if ending in IMAGE_SUFFIXES else "audio" if ending in SOUND_SUFFIXES else None


def _of_folder(folder: Path) -> Guess:
    if lists := [folder / name for name in METADATA if (folder / name).is_file()]:
        return _of_list(lists[0])
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return Guess("image", "segment")
    pictures, sounds = (sum(1 for _ in files_below(folder, of)) for of in (IMAGE_SUFFIXES, SOUND_SUFFIXES))
    return Guess("audio" if sounds > pictures else "image")


def _of_list(path: Path) -> Guess:
    rows = read_list(path)
    files = columns_of_files(rows, path.parent)
    if not rows or not files:
        _refuse_absent_files(path, rows)
        return Guess("table")
    column = next((name for name in PATHS if name in files), files[0])
    kind = next((kind for row in rows[:100] if (kind := kind_of_file(str(row.get(column))))), None)
    if kind is None:
        raise DataError(f"{path}: column {column} names files that are neither pictures nor sounds")
    found = None if column in PATHS else column
    others = [name for name in files if name != column]
    if kind == "image" and (masks := [name for name in (*COLUMNS["segment"], *others) if name in others]):
        return Guess(kind, "segment", found, unless_usual(masks[0], "segment", list(rows[0])))
    names = [name for name in rows[0] if isinstance(name, str) and name not in files]  # None: more values than columns
    label = label_among(names, str(path))
    task = task_of([row.get(label) for row in rows[:LOOKED_AT]])
    return Guess(kind, task, found, unless_usual(label, task, names))


def _refuse_absent_files(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError for a column that names pictures or sounds which do not lie there."""
    for name, value in (rows[0] if rows else {}).items():
        if isinstance(value, str) and kind_of_file(value) is not None:
            raise DataError(
                f"{path}: column {in_a_line(str(name))} names files, as {in_a_line(value)[:80]}, which do not lie there; paths start at the "
                "folder of the list"
            )


def label_among(names: Sequence[str], where: str) -> str:
    """The column of labels: one with a usual name, or the only one. Raises DataError where it cannot be told."""
    by_name = {name.lower(): name for name in reversed(names)}
    usual = [by_name[name] for name in (*LABELS, *VALUES) if name in by_name]
    if not usual and len(names) != 1:
        shown = in_a_line(listed(list(names))) or "none"
        raise DataError(f"{where}: no column of labels is known by its name; of {shown}, name one in data.label")
    return usual[0] if usual else names[0]


def unless_usual(label: str, task: Task, names: Sequence[str]) -> str | None:
    """The label's column for a recipe; None where the first usual name is this one."""
    first = next((name for name in COLUMNS[task] if name in names), None)
    return None if first == label else label


def task_of(values: Sequence[Any]) -> Task:
    """The kind of answers that values of labels are: lists are several labels, broken numbers values, all else classes."""
    present = [value for value in values if value is not None]
    if any(isinstance(value, list) or (isinstance(value, str) and SEPARATOR in value) for value in present):
        return "multilabel"
    numbers = [number_of(value) for value in present]
    if numbers and all(number is not None for number in numbers) and any(number % 1 for number in numbers if number):
        return "regress"
    return "classify"


def number_of(value: Any) -> float | None:
    """The number that a label is or says; None for another."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _of_parquet(file: Path) -> Guess:
    schema = schema_of(file)
    names = schema.names
    holders = [name for name in names if holds_files(schema.field(name).type)]
    if not holders:
        nested = [name for name in names if pa.types.is_nested(schema.field(name).type) and name != "labels"]
        if nested:
            raise DataError(f"{file}: column {in_a_line(nested[0])} holds lists, for which edgekd has no input")
        return Guess("table")
    described = _described(schema, "huggingface").get("info", {}).get("features", {})
    kinds = {name: _kind_of_column(file, name, described) for name in holders}
    usual = {kind: about.files.columns for kind, about in INPUTS.items() if about.files is not None}
    column = next((name for of_kind in usual.values() for name in of_kind if name in holders), holders[0])
    kind = kinds[column]
    found = None if column in usual[kind] else column
    masks = [name for name in COLUMNS["segment"] if name in holders and name != column]
    if kind == "image" and masks:
        stored = _described(schema, "class_names")
        named = tuple(map(str, stored)) if isinstance(stored, list) else ()
        return Guess(kind, "segment", found, unless_usual(masks[0], "segment", names), named)
    plain = [name for name in names if name not in holders and not pa.types.is_struct(schema.field(name).type)]
    of_classes = [name for name in plain if _has_names(described.get(name))]
    usual_names = {*LABELS, *VALUES}
    nested = [name for name in names if name not in (*holders, *plain)]
    if nested and not usual_names & {name.lower() for name in plain}:
        raise DataError(
            f"{file}: column {in_a_line(nested[0])} holds structs, as boxes, for which edgekd has no task; its other columns are "
            f"{in_a_line(listed(plain))}: if one holds labels, name it in data.label"
        )
    label = label_among(of_classes if of_classes and not usual_names & set(plain) else plain, str(file))
    task = task_of(first_values(file, label, LOOKED_AT))
    return Guess(kind, task, found, unless_usual(label, task, names))


def first_values(file: Path, column: str, most: int) -> list[Any]:
    """The first values of a column. Raises DataError for a file whose pages cannot be read."""
    try:
        opened = pq.ParquetFile(file)
        values: list[Any] = (
            opened.read_row_group(0, [column])[column][:most].to_pylist() if opened.num_row_groups else []
        )
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{file}: not a parquet file that can be read ({first_line(error)})") from error
    return values


def _described(schema: pa.Schema, key: str) -> Any:
    """What the schema's metadata holds as JSON under a key; {} without it, or if it is damaged."""
    stored = (schema.metadata or {}).get(key.encode())
    try:
        found = {} if stored is None else parse_json(stored)
    except ValueError:
        return {}
    return found if isinstance(found, dict | list) else {}


def _has_names(about: Any) -> bool:
    return isinstance(about, Mapping) and (about.get("_type") == "ClassLabel" or "names" in about.get("feature", ()))


def _kind_of_column(file: Path, name: str, described: Any) -> Literal["image", "audio"]:
    about = described.get(name) if isinstance(described, Mapping) else None
    if isinstance(about, Mapping) and about.get("_type") in ("Image", "Audio"):
        return "audio" if about["_type"] == "Audio" else "image"
    first = next(iter(first_values(file, name, 1)), None)
    content = first.get("bytes") if isinstance(first, dict) else first
    return (
        "audio" if isinstance(content, bytes) and content.startswith(SOUNDS) and content[8:12] != b"WEBP" else "image"
    )


def _of_npz(file: Path) -> Guess:
    arrays = {name.removesuffix("_train"): array for name, array in read_npz(file).items()}
    pictures = [name for name in ("x", "images", "image", "data") if name in arrays and arrays[name].ndim in (3, 4)]
    if not pictures:
        return Guess("table")
    labels = next(
        (arrays[name] for name in ("y", "labels", "label", "targets", "masks", "mask") if name in arrays), None
    )
    if labels is None:
        raise DataError(f"{file}: no array of labels, as y; its arrays are {in_a_line(listed(list(arrays)))}")
    task: Task = "segment" if labels.ndim == 3 else "regress" if labels.dtype.kind == "f" else "classify"
    return Guess("image", task)


def _of_tar(file: Path) -> Guess:
    endings = [ending for group in groups_of(file)[:100] for ending in group.files]
    kinds = [kind for ending in endings if (kind := kind_of_file(f"a.{ending}"))]
    if not kinds:
        raise DataError(
            f"{file}: no pictures or sounds in it; its files end in {in_a_line(listed(sorted(set(endings))))}"
        )
    masks = any(ending.partition(".")[0] in (*COLUMNS["segment"], "seg") for ending in endings)
    return Guess("image", "segment") if masks else Guess("audio" if kinds.count("audio") > len(kinds) / 2 else "image")
