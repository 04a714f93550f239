"""Labels: the columns of a table as what a task learns: lists of labels, values, or the pictures of masks.

Classes of whole samples are read by edgekd.data.sources.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgekd.base.contents import files_below
from edgekd.base.names import class_problem, in_a_line
from edgekd.errors import DataError
from edgekd.inputs.picture import turn_of
from edgekd.recipe import AnyTask, MultilabelTask, RegressTask, SegmentTask

COLUMNS = {
    "classify": ("label", "labels"),
    "multilabel": ("labels", "label"),
    "regress": ("label", "value", "score", "target"),
    "segment": ("mask", "annotation", "label", "mask_file_name"),
}
"""Kind of task -> the names that its column has, if the recipe names none."""
TURNED_ASIDE = {
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
}
SEPARATOR = ";"  # between the labels of a sample in a CSV


@dataclass(frozen=True)
class Targets:
    """What the samples of a split should give.

    values: an array `[n, ...]`, or for masks a sequence of encoded pictures; names: those of classes, labels or values.
    """

    values: NDArray[Any] | Sequence[Any]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Lazily(Sequence[Any]):
    """A sequence whose items are read when they are asked for."""

    n: int
    read: Callable[[int], Any]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: Any) -> Any:
        return self.read(int(i))


def targets_of(task: AnyTask, columns: Mapping[str, Sequence[Any]], where: str) -> Targets:
    """What the columns of a table hold for `task`: values of Python, by the column's name.

    Raises DataError with the row for what is no label, and for names that the task does not know.
    """
    match task:
        case MultilabelTask() if len(columns) > 1:
            return Targets(_flags(columns, where), _checked(tuple(columns), task, where))
        case MultilabelTask():
            ((name, rows),) = columns.items()
            return _lists(task, name, rows, where)
        case RegressTask():
            return Targets(np.stack([_values(name, rows, where) for name, rows in columns.items()], 1), tuple(columns))
        case _:
            raise AssertionError(task.kind)


def _flags(columns: Mapping[str, Sequence[Any]], where: str) -> NDArray[np.float32]:
    """A column of 0 and 1 for each label."""
    for name, rows in columns.items():
        for row, value in enumerate(rows):
            if str(value).lower() not in ("0", "1", "0.0", "1.0", "true", "false"):
                raise DataError(
                    f"{where} row {row}: column {in_a_line(name)} holds {_told(value)}; a label's column holds 0 or 1"
                )
    return np.stack(
        [np.array([str(value).lower() in ("1", "1.0", "true") for value in rows]) for rows in columns.values()], 1
    ).astype(np.float32)


def _lists(task: MultilabelTask, name: str, rows: Sequence[Any], where: str) -> Targets:
    """A list of labels in each row: texts, or numbers from 0."""
    split = [row.split(SEPARATOR) if isinstance(row, str) else row for row in rows]
    for number, row in enumerate(split):
        if not isinstance(row, list | np.ndarray) or any(isinstance(label, list | dict | float) for label in row):
            raise DataError(
                f"{where} row {number}: column {in_a_line(name)} holds {_told(rows[number])}; it must be a list of labels, or "
                "data.label = [...] lists columns of 0 and 1"
            )
    stripped = [[label.strip() if isinstance(label, str) else label for label in row] for row in split]
    stripped = [[label for label in row if label != ""] for row in stripped]
    known: set[Any] = {label for row in stripped for label in row}
    numbers = all(isinstance(label, int | np.integer) and not isinstance(label, bool) for label in known)
    if not numbers and not all(isinstance(label, str) for label in known):
        raise DataError(f"{where}: column {in_a_line(name)} must hold lists of texts, or of whole numbers from 0")
    if numbers:
        most = max(known, default=-1)
        names = task.classes or tuple(map(str, range(most + 1)))
        place: dict[Any, int] = {number: number for number in range(len(names))}
    else:
        names = task.classes or tuple(sorted(known))
        place = {label: i for i, label in enumerate(names)}
    names = _checked(names, task, where)
    values = np.zeros((len(rows), len(names)), np.float32)
    for number, row in enumerate(stripped):
        for label in row:
            if label not in place:
                raise DataError(
                    f"{where} row {number}: label {_told(label)} is none of the {len(names)} that are known "
                    f"({', '.join(names[:10])}); mend the row, or task.classes"
                )
            values[number, place[label]] = 1
    return Targets(values, names)


def _checked(names: tuple[str, ...], task: MultilabelTask, where: str) -> tuple[str, ...]:
    if task.classes is not None and len(task.classes) != len(names):
        raise DataError(
            f"{where}: task.classes has {len(task.classes)} names, and there are {len(names)} columns of labels"
        )
    names = task.classes or names
    if not names:
        raise DataError(f"{where}: no sample has a label; name the labels in task.classes")
    if problem := class_problem(names):
        raise DataError(f"{where}: {problem}")
    return names


def _values(name: str, rows: Sequence[Any], where: str) -> NDArray[np.float32]:
    """A column of finite numbers."""
    found = np.empty(len(rows), np.float32)
    for number, value in enumerate(rows):
        try:
            with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
                found[number] = float("nan" if value is None or isinstance(value, bool) else value)
        except (TypeError, ValueError):
            found[number] = np.nan
        if not np.isfinite(found[number]):
            raise DataError(
                f"{where} row {number}: column {in_a_line(name)} holds {_told(value)}; a value must be a finite number: mend it, or take the "
                "row out"
            )
    return found


def of_function(task: AnyTask, labels: Any, names: tuple[str, ...], n: int, where: str) -> Targets:
    """The labels that a user's function returned. Raises DataError for another shape or type."""
    try:
        given = np.asarray(labels)
    except ValueError as error:
        raise DataError(f"{where}: labels of unequal shapes ({error})") from error
    outputs, shape = len(names), list(given.shape)
    match task:
        case MultilabelTask() | RegressTask():
            given = given[:, None] if given.ndim == 1 else given
            if given.shape != (n, outputs) or given.dtype.kind not in "fiub":
                raise DataError(f"{where}: labels must be numbers [{n}, {outputs}]; they are {given.dtype} {shape}")
            with np.errstate(over="ignore"):
                values = given.astype(np.float32)
            fits = np.isfinite(values) if isinstance(task, RegressTask) else (values == 0) | (values == 1)
            if not fits.all():
                row, at = np.argwhere(~fits)[0]
                allowed = "a finite number" if isinstance(task, RegressTask) else "0 or 1"
                raise DataError(f"{where}: sample {row} has {values[row, at]:g} for {names[at]}; it must be {allowed}")
            return Targets(values, names)
        case _:
            if given.ndim != 3 or len(given) != n or given.dtype.kind not in "iub":
                raise DataError(
                    f"{where}: masks must be whole numbers [{n}, height, width]; they are {given.dtype} {shape}"
                )
            return Targets(list(given), names)


def decode_mask(stored: bytes | NDArray[Any], task: SegmentTask) -> NDArray[np.uint8]:
    """A mask as uint8 `[height, width]`.

    A picture with a palette holds the numbers of its colours. Raises ValueError for what is no mask of these classes.
    """
    if isinstance(stored, bytes):
        try:
            with Image.open(io.BytesIO(stored)) as image:
                if image.mode not in ("1", "L", "P", "I", "I;16"):
                    raise ValueError(
                        f"its mask is {image.mode}, whose pixels are colours; a mask is grey or has a palette, and its pixels are the "
                        "numbers of classes"
                    )
                mask = np.asarray(image)
        except UnidentifiedImageError as error:
            raise ValueError("its mask is no image that Pillow knows") from error
        except (OSError, SyntaxError, EOFError) as error:
            raise ValueError(f"its mask cannot be read ({error})") from error
    else:
        mask = stored
    bad = (mask != task.ignore_index) & ((mask < 0) | (mask >= len(task.classes)))
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise ValueError(
            f"its mask has {int(mask[y, x])} in row {y}, column {x}; classes are 0 to {len(task.classes) - 1}, and {task.ignore_index} "
            "is ignored (task.classes, task.ignore_index)"
        )
    return mask.astype(np.uint8)


def resized_mask(mask: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The mask `[height, width]` resized to `size` by the nearest pixel, if given."""
    if size is None or mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def size_of(picture: bytes | NDArray[Any]) -> tuple[int, int]:
    """The height and width of a picture as it is stored, turned as its EXIF data says."""
    if not isinstance(picture, bytes):
        return picture.shape[0], picture.shape[1]
    with Image.open(io.BytesIO(picture)) as image:
        turn = turn_of(image)
        return (image.width, image.height) if turn in TURNED_ASIDE else (image.height, image.width)


def mask_files(folder: Path, suffixes: frozenset[str] | None) -> tuple[list[Path], list[Path]]:
    """The pictures of `folder/images` and the masks of `folder/masks`, paired by their names without the suffix.

    Raises DataError for a picture without a mask, and for a mask without a picture.
    """
    images, masks = folder / "images", folder / "masks"
    if not images.is_dir() or not masks.is_dir():
        raise DataError(
            f"{folder}: no folders images and masks; a folder of pictures with masks holds both, with the same names inside"
        )
    by_stem = [
        {str(file.relative_to(of).with_suffix("")): file for file in sorted(files_below(of, suffixes))}
        for of in (images, masks)
    ]
    for ours, theirs, what in ((by_stem[0], by_stem[1], "mask"), (by_stem[1], by_stem[0], "picture")):
        if alone := sorted(ours.keys() - theirs.keys()):
            more = f" and {len(alone) - 1} more" * (len(alone) > 1)
            raise DataError(f"{folder}: {ours[alone[0]]}{more} without a {what} of the same name")
    return list(by_stem[0].values()), [by_stem[1][stem] for stem in by_stem[0]]


def listed_columns(asked: str | tuple[str, ...] | None, task: AnyTask, names: Sequence[str]) -> tuple[str, ...]:
    """The columns of labels: those that the recipe asks for, or the first that has a usual name."""
    if asked is not None:
        return (asked,) if isinstance(asked, str) else asked
    usual = COLUMNS[task.kind]
    return tuple(name for name in usual if name in names)[:1] or usual[:1]


def rows_of(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column of parquet."""
    found: list[Any] = column.to_pylist()
    return found


def _told(value: Any) -> str:
    return "nothing" if value is None else in_a_line(repr(value))[:60]
