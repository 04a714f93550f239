"""Sources: a folder, a parquet file, a CSV or a Python function, each as a list of encoded or decoded samples."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edgekd.base.contents import CSV_COLUMNS, files_below
from edgekd.base.json_text import parse_json
from edgekd.base.names import class_problem, in_a_line
from edgekd.base.references import load_function
from edgekd.data.labels import Lazily, Targets, listed_columns, mask_files, of_function, rows_of, targets_of
from edgekd.errors import DataError, nearest
from edgekd.inputs import INPUTS, Files
from edgekd.recipe import AnyTask, ClassifyTask, SegmentTask

MOST_CLASSES = 100_000  # limit if the number of classes is only known from the largest label
Label = str | tuple[str, ...] | None
CLASSIFY = ClassifyTask()


@dataclass(frozen=True)
class EncodedSplit:
    """A split before decoding: `read(i)` gives sample i as stored, `name(i)` its name in messages.

    A sample is the bytes of a file. From a Python function it is an array: of images uint8 `[h, w, channels]`. labels: an
    array `[n, ...]`, of classes int64 `[n]`; of masks a sequence of pictures. classes: names of classes, labels or values.
    """

    labels: Any
    classes: tuple[str, ...]
    read: Callable[[int], Any]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)


def open_source(
    reference: str,
    split: str,
    column: str | None = None,
    label: Label = None,
    *,
    kind: str = "image",
    task: AnyTask = CLASSIFY,
) -> EncodedSplit:
    """The samples of `data.train` or `data.test`, which is a path or a `python:` reference.

    `column` and `label` name the columns of the samples and labels in parquet or CSV; `kind` is the input that the samples
    are for, `task` what the labels are. A function is called with the split, and with `label` if it is given. Raises
    DataError if nothing can be read, a column is missing, or a label is none of the task.
    """
    path, files_of = Path(reference), INPUTS[kind].files
    assert files_of is not None
    asked = column if reference.startswith("python:") else column or label if path.is_dir() else None
    if asked is not None:
        raise DataError(f"data.{split} = '{reference}' has no columns, of which '{asked}' is asked for; give parquet")
    if reference.startswith("python:"):
        source = _from_function(reference, split, label, files_of, task)
    elif path.is_dir():
        source = _from_folder(path, files_of, task)
    elif path.is_file() and path.suffix == ".csv":
        source = _from_csv(path, column, label, task)
    elif path.is_file():
        source = _from_parquet([path], column, label, files_of, task)
    elif "*" in path.name and (files := sorted(path.parent.glob(path.name))):
        source = _from_parquet(files, column, label, files_of, task)
    else:
        raise DataError(
            f"data.{split} = '{reference}': no such file or folder; give a folder of {files_of.many} (one folder a class), "
            f"a parquet file, or python:module:function (--set data.{split}=...)"
        )
    where = f"data.{split} = '{reference}'"
    if len(source) == 0:
        raise DataError(f"{where}: no samples")
    if isinstance(task, ClassifyTask):
        _check_labels(source, where)
    return source


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


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names as text, with the number of the rest."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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


def _from_folder(folder: Path, kind: Files, task: AnyTask) -> EncodedSplit:
    if isinstance(task, SegmentTask):
        return _from_masks(folder, kind, task)
    if not isinstance(task, ClassifyTask):
        raise DataError(
            f'{folder} is a folder, which holds classes; for task.kind = "{task.kind}" give parquet or a CSV'
        )
    classes = tuple(
        sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    )
    if problem := class_problem(classes):
        raise DataError(f"{folder}: {problem}; rename the folder")
    if not classes:
        raise DataError(
            f"{folder}: no class folders; a folder of {kind.many} holds one folder a class, with the {kind.many} inside"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(files_below(folder / name, kind.suffixes))
        files += found
        labels += [label] * len(found)

    def name_of(i: int) -> str:
        return str(files[i])

    return EncodedSplit(np.array(labels, np.int64), classes, lambda i: files[i].read_bytes(), name_of)


def _from_masks(folder: Path, kind: Files, task: SegmentTask) -> EncodedSplit:
    """The pictures and masks of a folder."""
    pictures, masks = mask_files(folder, kind.suffixes)
    return EncodedSplit(
        Lazily(len(masks), lambda i: masks[i].read_bytes()),
        task.classes,
        lambda i: pictures[i].read_bytes(),
        lambda i: str(pictures[i]),
    )


def _from_parquet(files: list[Path], column: str | None, label: Label, kind: Files, task: AnyTask) -> EncodedSplit:
    column, labels_in = _columns(files[0], _schema(files[0]), column, label, kind, task)
    shards = [_read_parquet(file, column, labels_in, kind) for file in files]
    where = [(file, row) for file, shard in zip(files, shards, strict=True) for row in range(len(shard.encoded))]

    def name_of(i: int) -> str:
        return f"{where[i][0]} row {where[i][1]}"

    encoded = pa.chunked_array([chunk for shard in shards for chunk in shard.encoded.chunks], pa.large_binary())

    def read(i: int) -> bytes:
        return bytes(encoded[i].as_py() or b"")

    if isinstance(task, ClassifyTask):
        targets = Targets(*_classes_of(files, shards, labels_in[0], name_of))
    else:
        targets = _targets_of(files, shards, labels_in, task)
    return EncodedSplit(targets.values, targets.names, read, name_of)


def _targets_of(files: list[Path], shards: list[_Shard], labels: Sequence[str], task: AnyTask) -> Targets:
    """The labels of a task that is not classify, of all files together."""
    if isinstance(task, SegmentTask):
        masks = [
            pictures_in(shard.labels[labels[0]], file, labels[0], "masks")
            for file, shard in zip(files, shards, strict=True)
        ]
        joined = pa.chunked_array([chunk for each in masks for chunk in each.chunks], pa.large_binary())
        return Targets(Lazily(len(joined), lambda i: bytes(joined[i].as_py() or b"")), task.classes)
    names = _sequence_names(files[0], labels[0])
    if task.kind == "multilabel" and task.classes is None and names:
        task = task.model_copy(update={"classes": names})
    columns = {name: [value for shard in shards for value in rows_of(shard.labels[name])] for name in labels}
    return targets_of(task, columns, str(files[0]))


def _classes_of(
    files: list[Path], shards: list[_Shard], label: str, name_of: Callable[[int], str]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The class of each sample of all files, and the classes' names."""
    own = [class_names(file, shard.schema, label) for file, shard in zip(files, shards, strict=True)]
    numbers = [_labels(file, label, shard.labels[label]) for file, shard in zip(files, shards, strict=True)]
    classes = _common_classes(files, own)
    labels = np.concatenate([_renumbered(*each, classes) for each in zip(numbers, own, strict=True)])
    if not classes:
        largest = int(np.argmax(labels)) if len(labels) else 0
        if len(labels) and labels[largest] >= MOST_CLASSES:
            raise DataError(
                f"{name_of(largest)} has label {labels[largest]}; labels without class names are numbers from 0, one a class, and at "
                f"most {MOST_CLASSES:,} classes are possible"
            )
        classes = tuple(str(i) for i in range(int(labels.max(initial=-1)) + 1))
    return labels, classes


def _from_csv(path: Path, column: str | None, label: Label, task: AnyTask) -> EncodedSplit:
    """The files that a CSV lists, by paths from its folder. Classes are the texts of the label column, in order."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV that can be read ({first_line(error)})") from error
    names = list(rows[0]) if rows else []
    file = column or next((name for name in CSV_COLUMNS if name in names), "path")
    labels = listed_columns(label, task, names)
    for asked in (file, *labels):
        if asked not in names:
            shown = in_a_line(", ".join(map(str, names)))[:500]
            raise DataError(
                f"{path}: no column {asked}; its first line must name one of files and one of labels: {shown}"
            )
    for at, row in enumerate(rows):
        if not row[file] or (task.kind != "multilabel" and not all(row[name] for name in labels)):
            raise DataError(f"{path} row {at}: no {'label' if row[file] else 'file'}")
    files = _files_in(path, [row[file] for row in rows])
    columns = {name: [row[name] for row in rows] for name in labels}
    if isinstance(task, SegmentTask):
        masks = _files_in(path, columns[labels[0]])
        targets = Targets(Lazily(len(masks), lambda i: masks[i].read_bytes()), task.classes)
    elif isinstance(task, ClassifyTask):
        targets = _named_classes(path, columns[labels[0]])
    else:
        targets = targets_of(task, columns, str(path))

    def name_of(i: int) -> str:
        return f"{path} row {i}: {files[i].name}"

    return EncodedSplit(targets.values, targets.names, lambda i: files[i].read_bytes(), name_of)


def _named_classes(path: Path, labels: Sequence[str]) -> Targets:
    """The classes of a CSV: its texts in their order, numbers in theirs."""
    texts = set(labels)
    numbers = all(text.isdecimal() for text in texts)
    classes = tuple(sorted(texts, key=(lambda text: (int(text), text)) if numbers else str))
    if problem := class_problem(classes):
        raise DataError(f"{path}: {problem}")
    number = {name: i for i, name in enumerate(classes)}
    return Targets(np.array([number[text] for text in labels], np.int64), classes)


def _files_in(path: Path, names: Sequence[str]) -> list[Path]:
    """The files that a column of a CSV names. Raises DataError for a file that does not exist."""
    files = [path.parent / name for name in names]
    for at, one in enumerate(files):
        if not one.is_file():
            raise DataError(f"{path} row {at}: {one} does not exist; paths start at the folder of the CSV")
    return files


@dataclass(frozen=True)
class _Shard:
    """A parquet file: encoded samples, the columns of labels by name, and its schema."""

    encoded: pa.ChunkedArray
    labels: Mapping[str, pa.ChunkedArray]
    schema: pa.Schema


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: not a parquet file that can be read ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def _read_parquet(path: Path, name: str, labels: Sequence[str], kind: Files) -> _Shard:
    """The columns of samples and labels of a file. Raises DataError for wrong types."""
    missing = {name, *labels} - set(_schema(path).names)
    if missing:
        raise DataError(
            f"{path} and its neighbours have different columns: it has no {in_a_line(', '.join(sorted(missing)))}"
        )
    try:
        table = pq.read_table(path, columns=[name, *labels])
        encoded = pictures_in(table[name], path, name, kind.many)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: not a parquet file that can be read ({first_line(error)})") from error
    return _Shard(encoded, {label: table[label] for label in labels}, table.schema)


def pictures_in(column: pa.ChunkedArray, path: Path, name: str, many: str) -> pa.ChunkedArray:
    """The bytes in a column of structs. Raises DataError for a column of another type. many: the word for what it holds."""
    stored = column.type
    held = stored.field(stored.get_field_index("bytes")).type if _has_bytes(stored) else None
    if held is None or not (pa.types.is_binary(held) or pa.types.is_large_binary(held) or held == pa.binary_view()):
        raise DataError(
            f"{path}: column {name} is {_shown(stored)}; it must be a struct with the field bytes, of binary, that holds encoded {many}"
        )
    return pc.struct_field(column, stored.get_field_index("bytes")).cast(pa.large_binary())


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _labels(path: Path, label: str, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if not pa.types.is_integer(column.type):
        raise DataError(f"{path}: column {label} is {_shown(column.type)}; it must hold whole numbers")
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(f"{path} row {row} has no label (null in column {label}); give it one, or take the row out")
    values = column.to_numpy()
    if len(values) and int(values.max()) >= 2**62:
        row = int(np.argmax(values))
        raise DataError(f"{path} row {row} has label {values[row]}; labels are numbers from 0, one a class")
    labels: npt.NDArray[np.int64] = values.astype(np.int64)
    return labels


def _common_classes(files: list[Path], own: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The class names of all files, in the order of the first file. Raises DataError if the files differ in them."""
    first = own[0]
    for file, classes in zip(files, own, strict=True):
        if sorted(classes) != sorted(first):
            differ = sorted(set(classes) ^ set(first))
            raise DataError(
                f"{file} and {files[0]} have different classes ({len(classes)} and {len(first)} names"
                f"{', among them ' + ', '.join(differ[:5]) if differ else ''}); they must be of the same"
            )
    return first


def _renumbered(labels: npt.NDArray[np.int64], own: tuple[str, ...], classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """A file's labels of its own classes, renumbered to the order of the common class names.

    Labels that are not classes stay as they are: they are reported later.
    """
    if own == classes:
        return labels
    if len(set(classes)) < len(classes):
        raise DataError(
            f"the class names {', '.join(classes[:5])} ... hold one twice, and stand in another order in a further file"
        )
    place = {name: i for i, name in enumerate(classes)}
    order = np.array([place[name] for name in own], np.int64)
    known = (labels >= 0) & (labels < len(order))
    return np.where(known, order[np.where(known, labels, 0)], labels)


def _shown(kind: Any) -> str:
    """A column's type on one line. The names of a struct's fields may hold any character, so they are escaped."""
    return in_a_line(str(kind)[:300])


def _columns(
    path: Path, schema: pa.Schema, column: str | None, label: Label, kind: Files, task: AnyTask
) -> tuple[str, tuple[str, ...]]:
    """The names of the columns of samples and labels."""
    names, shown = schema.names, [in_a_line(name) for name in schema.names]
    for asked in (column, *((label,) if isinstance(label, str) else label or ())):
        if asked is not None and asked not in names:
            raise DataError(f"{path}: no column {asked}{nearest(asked, shown)}")
    samples = column or next((name for name in kind.columns if name in names), None)
    labels = listed_columns(label, task, names)
    if samples is None or labels[0] not in names:
        wanted = f"{' or '.join(kind.columns)} (a struct of bytes and path)" if samples is None else labels[0]
        raise DataError(f"{path}: no column {wanted}; its columns are {', '.join(shown)[:500]}")
    if any(names.count(name) > 1 for name in (samples, *labels)) or samples in labels:
        raise DataError(
            f"{path}: its columns are {', '.join(shown)[:500]}; one of {kind.many} and one of labels are needed"
        )
    stored = schema.field(samples).type
    if not _has_bytes(stored):
        raise DataError(f"{path}: column {samples} is {_shown(stored)}; it must be a struct with the field bytes")
    return samples, labels


def _told(result: object) -> str:
    """The kind of value that a function returned, in words."""
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__


def class_names(path: Path, schema: pa.Schema, label: str, within: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The class names that Hugging Face's `datasets` stores in the schema's metadata.

    Empty if the metadata does not describe the label column.
    """
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return ()
    try:
        found = parse_json(stored)
        for key in ("info", "features", label, *within):
            found = found.get(key, {})
        names = found.get("names", [])
        if not isinstance(names, list):
            raise TypeError(f"names is {type(names).__name__}")
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: the class names that its metadata holds (`huggingface`, as the package datasets writes it) cannot be read "
            f"({type(error).__name__}: {first_line(error)}); write the file anew"
        ) from error
    if problem := class_problem(names):
        raise DataError(f"{path}: in its metadata (`huggingface`) {problem}")
    return tuple(names)


def _sequence_names(path: Path, label: str) -> tuple[str, ...]:
    """The names that the metadata has for the numbers in a column of lists; empty without them."""
    return class_names(path, _schema(path), label, within=("feature",))


def _from_function(reference: str, split: str, label: Label, kind: Files, task: AnyTask) -> EncodedSplit:
    function = load_function(reference)
    where = f"data.{split} = '{reference}'"
    asked = (split,) if label is None else (split, label)
    try:
        result: Any = function(*asked)
    except (Exception, SystemExit) as error:  # a user's function may raise anything, or end the program
        raise DataError(
            f"{where}: the function failed when called with {', '.join(map(repr, asked))}: {type(error).__name__}: {error}"
        ) from error
    try:
        given, labels, classes = result
        samples = kind.given(given, where)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: the function must return ({kind.many}, labels, class names); it returned {_told(result)}"
        ) from error
    names = _named(classes, where)
    if not isinstance(task, ClassifyTask):
        targets = of_function(task, labels, names, len(samples), where)
        return EncodedSplit(targets.values, names, lambda i: samples[i], lambda i: f"{reference} sample {i}")
    labels = np.asarray(labels)
    if labels.shape != (len(samples),) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: labels must be {len(samples)} whole numbers; they are {labels.dtype} {list(labels.shape)}"
        )
    return EncodedSplit(labels.astype(np.int64), names, lambda i: samples[i], lambda i: f"{reference} sample {i}")


def _named(classes: Any, where: str) -> tuple[str, ...]:
    """The class names from a user's function: texts or numbers."""
    try:
        given = None if isinstance(classes, str | bytes) else list(classes)
    except TypeError:
        given = None
    if given is None:
        raise DataError(
            f"{where}: the function must return class names as a list of texts; it returned {type(classes).__name__}"
        )
    names = [
        str(name) if isinstance(name, int | np.integer | str) and not isinstance(name, bool) else name for name in given
    ]
    if problem := class_problem(names):
        raise DataError(f"{where}: {problem}")
    return tuple(names)


__all__ = ["EncodedSplit", "open_source"]
