"""from_folder: the files of a folder. Its subfolders are classes, or it has a list of its files, or images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekd.base.contents import files_below
from edgekd.base.listings import METADATA
from edgekd.base.names import class_problem
from edgekd.data.classes import of_numbers
from edgekd.data.encoded import EncodedSplit, Wanted, listed
from edgekd.data.labels import Lazily, mask_files
from edgekd.data.lists import from_lists
from edgekd.errors import DataError
from edgekd.inputs import Files
from edgekd.recipe import ClassifyTask, SegmentTask

SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})


def from_folder(folder: Path, kind: Files, wanted: Wanted) -> EncodedSplit:
    """The samples of a folder with metadata.csv or metadata.jsonl, of class folders, or of images and masks.

    Raises DataError for a folder that is none of these, and for folders that are splits.
    """
    if lists := [folder / name for name in METADATA if (folder / name).is_file()]:
        return from_lists(lists[:1], kind, wanted)
    if asked := wanted.column or wanted.label:
        raise DataError(
            f"data.{wanted.split} = '{folder}' has no columns, of which '{asked}' is asked for; give parquet, or a metadata.csv in it"
        )
    if isinstance(wanted.task, SegmentTask):
        return _from_masks(folder, kind, wanted.task)
    if not isinstance(wanted.task, ClassifyTask):
        raise DataError(
            f'{folder} is a folder, which holds classes; for task.kind = "{wanted.task.kind}" give parquet, a CSV, or a metadata.csv in it'
        )
    classes = tuple(
        sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    )
    if problem := class_problem(classes):
        raise DataError(f"{folder}: {problem}; rename the folder")
    if not classes:
        raise DataError(
            f"{folder}: no class folders; a folder of {kind.many} holds one folder a class, with the {kind.many} inside, or a metadata.csv "
            "or metadata.jsonl"
        )
    if len(classes) > 1 and all(name.lower() in SPLITS for name in classes):
        raise DataError(f"{folder} holds the splits {listed(classes)}; name one of them, as {folder / classes[0]}")
    return _from_classes(folder, classes, kind, wanted)


def _from_classes(folder: Path, classes: tuple[str, ...], kind: Files, wanted: Wanted) -> EncodedSplit:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(files_below(folder / name, kind.suffixes))
        files += found
        labels += [label] * len(found)
    targets = of_numbers(np.array(labels, np.int64), classes, wanted.classes, lambda i: str(files[i]), str(folder))
    return EncodedSplit(targets.values, targets.names, lambda i: files[i].read_bytes(), lambda i: str(files[i]))


def _from_masks(folder: Path, kind: Files, task: SegmentTask) -> EncodedSplit:
    """The pictures and masks of a folder."""
    pictures, masks = mask_files(folder, kind.suffixes)
    return EncodedSplit(
        Lazily(len(masks), lambda i: masks[i].read_bytes()),
        task.classes,
        lambda i: pictures[i].read_bytes(),
        lambda i: str(pictures[i]),
    )
