"""from_parquet: the samples and labels of parquet files, with the class names that Hugging Face's `datasets` stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edgekd.base.json_text import parse_json
from edgekd.base.names import class_problem, in_a_line
from edgekd.data.classes import of_numbers, of_texts, renumbered
from edgekd.data.encoded import EncodedSplit, Label, Wanted, first_line
from edgekd.data.labels import Lazily, Targets, listed_columns, rows_of, targets_of
from edgekd.errors import DataError, nearest
from edgekd.inputs import Files
from edgekd.recipe import AnyTask, ClassifyTask, SegmentTask


def from_parquet(files: Sequence[Path], kind: Files, wanted: Wanted) -> EncodedSplit:
    """The samples of parquet files, one after the other. Raises DataError for other columns or types than are needed."""
    task = wanted.task
    column, labels_in = _columns(files[0], schema_of(files[0]), wanted.column, wanted.label, kind, task)
    shards = [_read_parquet(file, column, labels_in, kind) for file in files]
    where = [(file, row) for file, shard in zip(files, shards, strict=True) for row in range(len(shard.encoded))]

    def name_of(i: int) -> str:
        return f"{where[i][0]} row {where[i][1]}"

    encoded = pa.chunked_array([chunk for shard in shards for chunk in shard.encoded.chunks], pa.large_binary())

    def read(i: int) -> bytes:
        return bytes(encoded[i].as_py() or b"")

    if isinstance(task, ClassifyTask):
        targets = _classes_of(files, shards, labels_in[0], name_of, wanted.classes)
    else:
        targets = _targets_of(files, shards, labels_in, task)
    return EncodedSplit(targets.values, targets.names, read, name_of)


def _targets_of(files: Sequence[Path], shards: list[_Shard], labels: Sequence[str], task: AnyTask) -> Targets:
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
    files: Sequence[Path],
    shards: list[_Shard],
    label: str,
    name_of: Callable[[int], str],
    asked: tuple[str, ...] | None,
) -> Targets:
    """The class of each sample of all files, and the classes' names. A column of texts holds names."""
    where = f"{files[0]}: column {in_a_line(label)}"
    if any(_is_text(shard.labels[label].type) for shard in shards):
        columns = [_texts(file, label, shard.labels[label]) for file, shard in zip(files, shards, strict=True)]
        return of_texts([text for column in columns for text in column], asked, name_of, where)
    own = [class_names(file, shard.schema, label) for file, shard in zip(files, shards, strict=True)]
    numbers = [_labels(file, label, shard.labels[label]) for file, shard in zip(files, shards, strict=True)]
    classes = _common_classes(files, own)
    labels = np.concatenate([renumbered(*each, classes) for each in zip(numbers, own, strict=True)])
    return of_numbers(labels, classes, asked, name_of, where)


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column holds texts, as they are or by a dictionary."""
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(held) or pa.types.is_large_string(held) or held == pa.string_view())


def _texts(path: Path, label: str, column: pa.ChunkedArray) -> list[str]:
    if not _is_text(column.type):
        raise DataError(
            f"{path}: column {label} is {_shown(column.type)}, and texts in a file beside it; write one kind"
        )
    texts = [(text or "").strip() for text in column.to_pylist()]
    if lacking := [row for row, text in enumerate(texts) if not text]:
        raise DataError(
            f"{path} row {lacking[0]} has no label (nothing in column {label}); give it one, or take the row out"
        )
    return texts


@dataclass(frozen=True)
class _Shard:
    """A parquet file: encoded samples, the columns of labels by name, and its schema."""

    encoded: pa.ChunkedArray
    labels: Mapping[str, pa.ChunkedArray]
    schema: pa.Schema


def schema_of(path: Path) -> pa.Schema:
    """The columns of a file. Raises DataError for a file that cannot be read."""
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: not a parquet file that can be read ({first_line(error)})") from error


def _read_parquet(path: Path, name: str, labels: Sequence[str], kind: Files) -> _Shard:
    """The columns of samples and labels of a file. Raises DataError for wrong types."""
    missing = {name, *labels} - set(schema_of(path).names)
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
    """The bytes in a column, of binary or of structs. Raises DataError for a column of another type. many: what it holds."""
    stored = column.type
    if _is_binary(stored):
        return column.cast(pa.large_binary())
    held = stored.field(stored.get_field_index("bytes")).type if _has_bytes(stored) else None
    if held is None or not _is_binary(held):
        raise DataError(
            f"{path}: column {name} is {_shown(stored)}; it must be binary, or a struct with the field bytes, of binary, that holds "
            f"encoded {many}"
        )
    return pc.struct_field(column, stored.get_field_index("bytes")).cast(pa.large_binary())


def holds_files(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold encoded files: binary, or a struct with the field bytes."""
    return _is_binary(kind) or _has_bytes(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == pa.binary_view())


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _labels(path: Path, label: str, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if not pa.types.is_integer(column.type):
        raise DataError(f"{path}: column {label} is {_shown(column.type)}; it must hold whole numbers, or texts")
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(f"{path} row {row} has no label (null in column {label}); give it one, or take the row out")
    values = column.to_numpy()
    if len(values) and int(values.max()) >= 2**62:
        row = int(np.argmax(values))
        raise DataError(f"{path} row {row} has label {values[row]}; labels are numbers from 0, one a class")
    labels: npt.NDArray[np.int64] = values.astype(np.int64)
    return labels


def _common_classes(files: Sequence[Path], own: list[tuple[str, ...]]) -> tuple[str, ...]:
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
        wanted = (
            f"{' or '.join(kind.columns)} (binary, or a struct of bytes and path)" if samples is None else labels[0]
        )
        raise DataError(f"{path}: no column {wanted}; its columns are {', '.join(shown)[:500]}")
    if any(names.count(name) > 1 for name in (samples, *labels)) or samples in labels:
        raise DataError(
            f"{path}: its columns are {', '.join(shown)[:500]}; one of {kind.many} and one of labels are needed"
        )
    stored = schema.field(samples).type
    if not holds_files(stored):
        raise DataError(
            f"{path}: column {samples} is {_shown(stored)}; it must be binary, or a struct with the field bytes"
        )
    return samples, labels


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
    return class_names(path, schema_of(path), label, within=("feature",))
