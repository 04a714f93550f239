"""Sources: a folder, a file, a pattern of files or a Python function, each as a list of encoded or decoded samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.base.contents import matching
from edgekd.base.listings import LISTS
from edgekd.data.encoded import CLASSIFY, EncodedSplit, Label, Wanted, check_label, listed
from edgekd.data.folders import from_folder
from edgekd.data.function import from_function
from edgekd.data.lists import from_lists
from edgekd.data.npz import from_npz
from edgekd.data.parquet import from_parquet
from edgekd.data.tars import from_tars
from edgekd.errors import DataError
from edgekd.inputs import INPUTS, Files
from edgekd.recipe import AnyTask, ClassifyTask

PARQUET = frozenset({".parquet", ".pq"})


def open_source(
    reference: str,
    split: str,
    column: str | None = None,
    label: Label = None,
    *,
    kind: str = "image",
    task: AnyTask = CLASSIFY,
    classes: tuple[str, ...] | None = None,
) -> EncodedSplit:
    """The samples of `data.train` or `data.test`, which is a path, a pattern of files or a `python:` reference.

    `column` and `label` name the columns of the samples and labels; `kind` is the input that the samples are for, `task`
    what the labels are, `classes` the names and the order of the classes. A function is called with the split, and with
    `label` if it is given. Raises DataError if nothing can be read, a column is missing, or a label is none of the task.
    """
    path, files_of = Path(reference), INPUTS[kind].files
    assert files_of is not None
    wanted, where = Wanted(split, column, label, classes, task), f"data.{split} = '{reference}'"
    check_label(label, task, where)
    if reference.startswith("python:"):
        if column is not None:
            raise DataError(f"{where} has no columns, of which '{column}' is asked for; give parquet")
        source = from_function(reference, files_of, wanted)
    elif path.is_dir():
        source = from_folder(path, files_of, wanted)
    else:
        source = _from_files([path] if path.is_file() else matching(path), files_of, wanted, where)
    if len(source) == 0:
        raise DataError(f"{where}: no samples")
    if isinstance(task, ClassifyTask):
        _check_labels(source, where)
    return source


def _from_files(files: list[Path], kind: Files, wanted: Wanted, where: str) -> EncodedSplit:
    """The samples of files of one format, one after the other."""
    endings = sorted({file.suffix.lower() for file in files})
    if not files:
        raise DataError(f"{where}: no such file or folder; give {formats(kind)} (--set data.{wanted.split}=...)")
    if len(endings) > 1:
        raise DataError(f"{where}: files of several formats ({', '.join(endings)}); give those of one")
    (ending,) = endings
    if ending in LISTS:
        return from_lists(files, kind, wanted)
    if ending == ".tar":
        return from_tars(files, kind, wanted)
    if ending == ".npz":
        if len(files) > 1:
            raise DataError(f"{where}: {len(files)} files of numpy; give one")
        return from_npz(files[0], kind, wanted)
    if ending in PARQUET or _begins_as_parquet(files[0]):
        return from_parquet(files, kind, wanted)
    raise DataError(f"{where}: {ending or files[0].name} is no format that is read; give {formats(kind)}")


def formats(kind: Files) -> str:
    """The formats of the samples of a kind, as the end of a message."""
    return (
        f"a folder of {kind.many} (one folder a class, or with a metadata.csv or metadata.jsonl), parquet, a CSV or JSONL of paths and "
        f"labels, npz, a tar of WebDataset, or python:module:function"
    )


def _begins_as_parquet(file: Path) -> bool:
    with open(file, "rb") as opened:
        return opened.read(4) == b"PAR1"


def with_classes_of(classes: tuple[str, ...], test: EncodedSplit, task: AnyTask = CLASSIFY) -> EncodedSplit:
    """The test split with its labels numbered as train numbers the classes of these names.

    The test split may lack classes. Raises DataError if it has classes that train lacks, or if two classes share a name.
    """
    if test.classes == classes:
        return test
    if not isinstance(task, ClassifyTask):
        raise DataError(
            f"data.test has {listed(test.classes)} ({len(test.classes)}), data.train has {listed(classes)} ({len(classes)}); give both the same, in "
            "one order"
        )
    ours, theirs = Counter(classes), Counter(test.classes)
    unknown = [name for name in theirs if name not in ours]
    if unknown:
        lacking = [name for name in ours if name not in theirs]
        told = f"; of train's {len(classes)} it lacks {listed(lacking)}" if lacking else ""
        raise DataError(
            f"data.test has {'a class' if len(unknown) == 1 else 'classes'} that data.train has not: {listed(unknown)}{told}; "
            "give both the same names"
        )
    for split, names in (("train", ours), ("test", theirs)):
        if twice := [name for name, times in names.items() if times > 1]:
            raise DataError(
                f"data.{split} has several classes that are called {listed(twice)}; give each a name of its own"
            )
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[name] for name in test.classes], np.int64)[test.labels]
    return replace(test, labels=labels, classes=classes)


def _check_labels(source: EncodedSplit, where: str) -> None:
    if source.labels.min() < 0 or source.labels.max() >= len(source.classes):
        bad = int(np.argmax((source.labels < 0) | (source.labels >= len(source.classes))))
        raise DataError(
            f"{where}: {source.name(bad)} has label {source.labels[bad]}, but there are {len(source.classes)} classes "
            f"(0 to {len(source.classes) - 1}); mend the label, or the class names"
        )


def check_classes(labels: npt.NDArray[np.int64], classes: tuple[str, ...], where: str, *, known: int = 0) -> None:
    """Raise DataError for a class without samples. The first `known` classes may have none."""
    counts = np.bincount(labels, minlength=len(classes))
    empty = [classes[i] for i in np.flatnonzero(counts == 0) if i >= known]
    if empty:
        raise DataError(f"{where}: no sample of class {listed(empty)}; add some, or remove the class")


__all__ = ["EncodedSplit", "check_classes", "listed", "open_source", "with_classes_of"]
