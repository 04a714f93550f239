"""EncodedSplit: a split before decoding, as every reader of this room gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.errors import DataError
from edgekd.recipe import AnyTask, ClassifyTask

Label = str | tuple[str, ...] | None
CLASSIFY = ClassifyTask()


@dataclass(frozen=True)
class EncodedSplit:
    """A split before decoding: `read(i)` gives sample i as stored, `name(i)` its name in messages.

    A sample is the bytes of a file. From a Python function or npz it is an array: of images uint8 `[h, w, channels]`. labels:
    an array `[n, ...]`, of classes int64 `[n]`; of masks a sequence of pictures. classes: names of classes, labels or values.
    """

    labels: Any
    classes: tuple[str, ...]
    read: Callable[[int], Any]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Wanted:
    """What a recipe asks of a source. column, label: the columns of samples and labels, if it names them.

    classes: the names of the classes in their order, if it names them.
    """

    split: str
    column: str | None = None
    label: Label = None
    classes: tuple[str, ...] | None = None
    task: AnyTask = CLASSIFY


def check_label(label: Label, task: AnyTask, where: str) -> None:
    """Raise DataError for several columns of labels where an answer is one class or one mask."""
    if isinstance(label, tuple) and len(label) > 1 and task.kind in ("classify", "segment"):
        raise DataError(
            f'{where}: data.label lists {listed(label)}; task.kind = "{task.kind}" has one column of labels: name it alone'
        )


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names as text, with the number of the rest."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 300 characters."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
