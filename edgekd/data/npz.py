"""from_npz: the arrays of a file of numpy, as samples `x` and labels `y`; and its arrays as columns of a table."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.base.names import class_problem, in_a_line
from edgekd.data.classes import of_numbers, of_texts
from edgekd.data.encoded import EncodedSplit, Wanted, first_line, listed
from edgekd.data.labels import Targets, of_function
from edgekd.errors import DataError, nearest
from edgekd.inputs import Files
from edgekd.recipe import ClassifyTask, MultilabelTask, SegmentTask

SAMPLES = ("x", "images", "image", "sounds", "audio", "data")
LABELS = ("y", "labels", "label", "targets", "masks", "mask")
CLASSES = ("classes", "class_names", "label_names")
Arrays = Mapping[str, NDArray[Any]]


def from_npz(path: Path, kind: Files, wanted: Wanted) -> EncodedSplit:
    """The samples of `x` (or images, sounds) and the labels of `y` (or labels); of one file for both splits, x_train and x_test.

    Pictures are uint8 `[n, h, w]` or `[n, h, w, channels]`. An array `classes` of texts names the classes. Raises DataError
    for arrays that are missing, or of another type or length.
    """
    arrays, where = read_npz(path), str(path)
    given = _array(arrays, wanted.column, SAMPLES, wanted.split, where)
    labels = _labels_in(arrays, wanted, where)
    if kind.one == "image" and given.ndim == 3:
        given = given[..., None]
    samples = kind.given(given, where)
    if len(labels) != len(samples):
        raise DataError(f"{where}: {len(samples)} {kind.many}, and {len(labels)} labels; give one label a sample")
    own = next(
        (tuple(map(str, arrays[name].tolist())) for name in CLASSES if name in arrays and arrays[name].ndim == 1), ()
    )
    if problem := class_problem(own):
        raise DataError(f"{where}: {problem}")
    targets = _targets(labels, own, wanted, where)
    return EncodedSplit(targets.values, targets.names, lambda i: samples[i], lambda i: f"{path} sample {i}")


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name. Raises DataError for a file that cannot be read, or that holds objects of Python."""
    try:
        # A file that is no zip would stay open if numpy opened it.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        MemoryError,
        TypeError,  # one array, as .npy holds
        RuntimeError,  # a compression that zipfile does not know, or a password
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"{path}: not a file of numpy's arrays that can be read ({first_line(error)})") from error


def of_split(arrays: Arrays, split: str) -> dict[str, NDArray[Any]]:
    """The arrays of a split where a file has arrays of both, as x_train and x_test, by their names without it; else all."""
    ends = ("_train", "_test")
    if not all(any(name.endswith(end) for name in arrays) for end in ends):
        return dict(arrays)
    return {name.removesuffix(f"_{split}"): array for name, array in arrays.items() if name.endswith(f"_{split}")}


def _labels_in(arrays: Arrays, wanted: Wanted, where: str) -> NDArray[Any]:
    """The array of labels; of several names their arrays side by side, `[n, names]`."""
    if not isinstance(wanted.label, tuple):
        return _array(arrays, wanted.label, LABELS, wanted.split, where)
    parts = [_array(arrays, name, LABELS, wanted.split, where) for name in wanted.label]
    if len({part.shape for part in parts}) > 1 or parts[0].ndim != 1:
        shapes = ", ".join(f"{list(part.shape)}" for part in parts)
        raise DataError(f"{where}: the arrays that data.label lists have the shapes {shapes}; each must be [n]")
    return parts[0] if len(parts) == 1 else np.stack(parts, 1)


def _array(arrays: Arrays, asked: str | None, usual: Sequence[str], split: str, where: str) -> NDArray[Any]:
    names = [f"{asked}_{split}", asked] if asked else [f"{name}{end}" for name in usual for end in (f"_{split}", "")]
    for name in names:
        if name in arrays and arrays[name].ndim:
            return arrays[name]
    told = asked if asked else " or ".join(usual[:3])
    raise DataError(
        f"{where}: no array {told}{nearest(str(told), map(in_a_line, arrays))} Name them in data.column and data.label"
    )


def _targets(labels: NDArray[Any], own: tuple[str, ...], wanted: Wanted, where: str) -> Targets:
    task = wanted.task
    if not isinstance(task, ClassifyTask):
        of = task.classes if isinstance(task, SegmentTask | MultilabelTask) else None
        width = labels.shape[1] if labels.ndim == 2 else 1
        own = own or (wanted.label if isinstance(wanted.label, tuple) else ())
        numbered = tuple(str(n) for n in range(width)) if width > 1 else ("value",)
        return of_function(task, labels, of or own or numbered, len(labels), where)
    flat = labels.reshape(len(labels)) if labels.shape in ((len(labels),), (len(labels), 1)) else labels

    def name_of(i: int) -> str:
        return f"{where} sample {i}"

    if flat.ndim == 1 and flat.dtype.kind in "US":
        texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in flat.tolist()]
        return of_texts(texts, wanted.classes, name_of, where)
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        shown = f"{labels.dtype} {listed([str(n) for n in labels.shape])}"
        raise DataError(f"{where}: labels must be whole numbers or texts, one a sample; they are {shown}")
    return of_numbers(flat.astype(np.int64), own, wanted.classes, name_of, where)
