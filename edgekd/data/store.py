"""The decoded store: every sample is decoded once, into one array on disk for each field.

Training maps these arrays into memory. If they would be larger than `data.store_gb`, the encoded samples are stored
instead and decoded in every epoch. The arrays, the views and the results stay the same; only decoding takes more time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgekd.base.console import progress, say
from edgekd.base.draws import Ids, permutation
from edgekd.base.tables import Table
from edgekd.cache.stage import Artifact, stage
from edgekd.data.encoded import EncodedSplit, listed
from edgekd.data.labels import decode_mask, resized_mask, size_of
from edgekd.data.parts import part_of
from edgekd.data.sources import open_source, with_classes_of
from edgekd.data.tables import open_table
from edgekd.data.views import Learnt, Views
from edgekd.errors import DataError
from edgekd.inputs import INPUTS, Arrays, Files, Input
from edgekd.inputs.files import Shapes
from edgekd.recipe import AnyData, AnySource, AnyTask, ClassifyTask, MultilabelTask, SegmentTask, Source, TableSource
from edgekd.tasks import TASKS
from edgekd.tasks.protocol import Task

T = TypeVar("T")
WORKERS = min(32, os.cpu_count() or 1)
META = "meta.json"
LABELS = "labels.npy"
FACTS = "facts.json"  # what the kind learnt of train, where it learns something
ENCODED = "samples.encoded"
HOLDOUT = 0x401D  # a coordinate of its own, so that the split shares no random number with any view


@dataclass(frozen=True)
class Split:
    """A split: `get(ids)` gives raw arrays `[n, ...]` by field, as `input` describes them.

    labels: what the task learns, `[samples, ...]`, for example int64 `[samples]` for classes.
    """

    input: Input
    get: Callable[[Ids], Arrays]
    labels: npt.NDArray[Any]
    task: Task

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Samples:
    """The training split. Training uses `train_ids` and every choice uses `holdout_ids`, both ids of `train`.

    data: the recipe's settings for the samples.
    """

    train: Split
    train_ids: Ids
    holdout_ids: Ids
    skipped: tuple[str, ...]
    data: AnyData

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the outputs: of classes, labels or values."""
        return self.task.names

    @property
    def input(self) -> Input:
        """The kind of input, which turns samples into a network's arguments."""
        return self.train.input

    @property
    def task(self) -> Task:
        """The half of the problem behind a network's outputs."""
        return self.train.task

    @property
    def learnt(self) -> Learnt:
        """The labels of the whole split, and how they follow a view."""
        return Learnt(self.train.labels, self.task.rows)

    @property
    def views(self) -> Views:
        """The training views as the recipe augments them, with the labels under the task name ""."""
        data, train = self.data, self.train
        return Views(self.input, train.get, {"": self.learnt}, self.train_ids, data.seed, data.augment.mixup)


@dataclass(frozen=True)
class Unseen(Split):
    """The test split, which only the final check reads. Its labels number the classes of train.

    `repeated` tells for each sample whether train holds a sample with the same arrays.
    """

    skipped: tuple[str, ...]
    repeated: npt.NDArray[np.bool_]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the outputs: of classes, labels or values."""
        return self.task.names


@stage(5, ("pillow", "pyarrow", "numpy"))
def decode(source: AnySource, task: AnyTask, *, out: Path) -> None:
    """Stage: decode the training split into `out`.

    Raises DataError for a source that cannot be read, and for samples of different shapes, as images without `data.size`.
    Unless `data.on_error` is "skip", the first sample that does not decode is a DataError too.
    """
    found, learning = _opened(source, "train", task), _files(source).learning
    facts = None if learning is None else learning.of([found.read(i) for i in range(len(found))], source)
    shapes = _first_shapes(found, source, facts)
    _write(found, "train", shapes, source, task, facts, _room_gb(source, out), out)
    _keep(facts, out)


@stage(3, ("pillow", "pyarrow", "numpy"))
def decode_test(source: AnySource, task: AnyTask, train: Artifact, *, out: Path) -> None:
    """Stage: decode the test split into `out`, with its labels numbered as train numbers its classes.

    The stage also marks the samples that train holds too. Raises DataError as `decode` does, and for classes that train
    lacks. The result enters the key of no stage that trains.
    """
    about = _meta(train.folder)
    names, facts = tuple(about["classes"]), _facts(train.folder, about["input"])
    if isinstance(task, MultilabelTask):  # numbers and texts are those of train
        task = task.model_copy(update={"classes": names})
    found = with_classes_of(names, _opened(source, "test", task), task)
    taken_gb = sum(file.stat().st_size for file in train.folder.glob("*.*coded")) / 1e9
    shapes = {name: tuple(shape) for name, shape in about["shapes"].items()}
    digests = _write(found, "test", shapes, source, task, facts, _room_gb(source, out, taken_gb), out)
    _keep(facts, out)
    np.save(out / "repeated.npy", np.isin(digests, np.load(train / "digests.npy")))


def _room_gb(source: AnySource, out: Path, taken_gb: float = 0.0) -> float:
    """The gigabytes that a decoded split may take: the rest of the recipe's limit, or half of the free disk."""
    return max(0.0, source.store_gb - taken_gb) if source.store_gb is not None else shutil.disk_usage(out).free / 2e9


def _opened(source: AnySource, split: str, task: AnyTask) -> EncodedSplit:
    if isinstance(source, TableSource):
        found = open_table(source, split, task)
    else:
        found = open_source(
            source.files, split, source.column, source.label, kind=source.input, task=task, classes=source.classes
        )
    return found if source.part is None else part_of(found, source.part, _files(source).many)


def _decoder(source: AnySource, facts: Table | None) -> Callable[[Any], tuple[Arrays, tuple[str, ...]]]:
    """The function from a stored sample to its arrays and remarks. facts: what the kind learnt of train, if anything."""
    decoded = _files(source).decoded
    return lambda stored: decoded(stored, source) if facts is None else decoded(stored, source, facts)


def _keep(facts: Table | None, out: Path) -> None:
    """Write what the kind learnt of train beside the samples, of train and test alike."""
    if facts is not None:
        (out / FACTS).write_text(facts.model_dump_json())


def _facts(folder: Path, kind: str) -> Table | None:
    """What a kind of input learnt of train, as a decoded split holds it; None for a kind that learns nothing."""
    files = INPUTS[kind].files
    if files is None or files.learning is None:
        return None
    return files.learning.facts.model_validate_json((folder / FACTS).read_bytes(), strict=True)


def _files(source: AnySource) -> Files:
    """How samples of this kind are stored."""
    found = INPUTS[source.input].files
    assert found is not None  # a recipe names only kinds that are read from files
    return found


def shapes_of(sample: Arrays) -> Shapes:
    """The shapes of one sample's fields."""
    return {name: array.shape for name, array in sample.items()}


def dtypes_of(arrays: Arrays) -> dict[str, str]:
    """The types of fields, by numpy's names."""
    return {name: str(array.dtype) for name, array in arrays.items()}


def _first_shapes(encoded: EncodedSplit, source: AnySource, facts: Table | None) -> Shapes:
    decoder = _decoder(source, facts)
    for i in range(len(encoded)):
        try:
            return shapes_of(decoder(encoded.read(i))[0])
        except ValueError as error:
            if source.on_error == "stop":
                raise _does_not_decode(encoded.name(i), error) from error
    raise DataError(f"data.train = '{source.files}': not one of its {len(encoded)} {_files(source).many} decodes")


def _does_not_decode(name: str, error: Exception) -> DataError:
    return DataError(f'{name} does not decode: {error}; mend or remove it, or set data.on_error = "skip"')


def _write(
    encoded: EncodedSplit,
    split: str,
    shapes: Shapes,
    source: AnySource,
    task: AnyTask,
    facts: Table | None,
    allowed_gb: float,
    out: Path,
) -> npt.NDArray[np.uint64]:
    """Write a split in its own order and return the digest of each sample that was kept. facts: learnt of train, or None.

    Raises DataError if a class of train has no sample left. Test may lack classes.
    """
    files_of, decoder = _files(source), _decoder(source, facts)
    needed_gb = len(encoded) * sum(int(np.prod(shape)) for shape in shapes.values()) * files_of.value_bytes / 1e9
    is_encoded = isinstance(encoded.read(0), bytes)  # a Python function gives arrays
    kind = "encoded" if is_encoded and needed_gb > allowed_gb else "decoded"
    if kind == "encoded":
        size = f"the decoded {files_of.many} of {split} would take {needed_gb:.2f} GB"
        say(f"{size}, more than data.store_gb allows ({allowed_gb:.2f}): decoding on the fly")
    digests, skipped, offsets, told = [], [], [0], Counter[str]()
    dtypes: dict[str, str] = {}
    labels = LabelWriter(out / LABELS, len(encoded))

    def read(i: int) -> tuple[Any, Arrays | ValueError, Any, tuple[str, ...], int]:
        stored = encoded.read(i)
        try:
            sample, remarks = decoder(stored)
            label = _label_of(encoded.labels[i], task, stored, sample, source)
        except ValueError as error:
            return stored, error, None, (), 0
        return stored, sample, label, remarks, digest(sample)

    names = [ENCODED] if kind == "encoded" else [f"{name}.decoded" for name in shapes]
    with ExitStack() as stack:
        files = [stack.enter_context(open(out / name, "wb")) for name in names]
        in_order = _in_order(read, range(len(encoded)), f"decoding {split}")
        for i, (stored, sample, label, remarks, hashed) in enumerate(in_order):
            if isinstance(sample, ValueError):
                if source.on_error == "stop":
                    raise _does_not_decode(encoded.name(i), sample) from sample
                skipped.append(encoded.name(i))
                continue
            if shapes_of(sample) != shapes:
                raise DataError(files_of.another_shape(encoded.name(i), sample, shapes))
            dtypes = dtypes or dtypes_of(sample)
            labels.add(label)
            digests.append(hashed)
            told.update(remarks)
            parts = [stored] if kind == "encoded" else [sample[name].tobytes() for name in shapes]
            offsets.append(offsets[-1] + sum(file.write(part) for file, part in zip(files, parts, strict=True)))
    _tell(split, files_of, len(encoded), skipped, told)
    if split == "train":
        _check_kept(labels, encoded, task, files_of.one)
    np.save(out / "offsets.npy", np.array(offsets, np.int64))
    labels.close()
    about = {"classes": encoded.classes, "input": source.input, "shapes": shapes, "dtypes": dtypes, "kind": kind}
    _write_about(out, np.array(digests, np.uint64), {**about, "skipped": skipped})
    return np.array(digests, np.uint64)


def _tell(split: str, files: Files, n: int, skipped: Sequence[str], remarks: Mapping[str, int]) -> None:
    """Print what was left out of a split, and what was done to its samples."""
    if skipped:
        say(f"{split}: {len(skipped)} of {n} {files.many} do not decode and are left out, the first: {skipped[0]}")
    for remark, count in remarks.items():
        say(f"{split}: {count} of {n} {files.many} {remark}")


def write_decoded(
    out: Path, kind: str, arrays: Arrays, labels: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> None:
    """Write a split in the form that `decode` stores: arrays `[n, ...]` by field, labels `[n]`.

    kind: name of the input (edgekd.inputs.INPUTS).
    """
    for name, array in arrays.items():
        (out / f"{name}.decoded").write_bytes(np.ascontiguousarray(array).tobytes())
    shapes = {name: array.shape[1:] for name, array in arrays.items()}
    about = {"classes": classes, "input": kind, "shapes": shapes, "dtypes": dtypes_of(arrays), "kind": "decoded"}
    about["skipped"] = []
    np.save(out / LABELS, labels)
    _write_about(out, np.zeros(0, np.uint64), about)


def _label_of(label: Any, task: AnyTask, stored: Any, sample: Arrays, source: AnySource) -> npt.NDArray[Any]:
    """A sample's label as it is stored. Raises ValueError for a mask that does not fit its picture."""
    if not isinstance(task, SegmentTask):
        return np.asarray(label)
    assert isinstance(source, Source)  # a recipe with other samples is refused
    (picture,) = sample.values()
    mask = decode_mask(label, task)
    own = size_of(stored) if source.size is not None else picture.shape[:2]
    if mask.shape != own:
        raise ValueError(
            f"its mask is {mask.shape[1]}x{mask.shape[0]}, the picture {own[1]}x{own[0]}; give masks of the pictures' size"
        )
    return resized_mask(mask, source.size)


def _check_kept(labels: LabelWriter, encoded: EncodedSplit, task: AnyTask, one: str) -> None:
    """Raise DataError if the training split has lost a class, or if no pixel of it has one."""
    if isinstance(task, ClassifyTask):
        missing = set(encoded.labels.tolist()) - labels.numbers.keys()
        if missing:
            lost = ", ".join(encoded.classes[i] for i in sorted(missing))
            raise DataError(f"train: no {one} of class {lost} decodes")
    if isinstance(task, SegmentTask):
        absent = [name for number, name in enumerate(task.classes) if number not in labels.numbers]
        if absent:
            ignored = labels.numbers[task.ignore_index]
            told = f", and {ignored} are {task.ignore_index}, which task.ignore_index leaves out" if ignored else ""
            raise DataError(
                f"train: no pixel of class {listed(absent)} in {len(encoded)} masks{told}; mend the masks, task.classes or "
                "task.ignore_index"
            )


class LabelWriter:
    """Writes the labels of a split one by one into a file of numpy. `numbers` counts whole numbers, as of classes."""

    def __init__(self, path: Path, n: int) -> None:
        self.path, self.n, self.count = path, n, 0
        self.numbers = Counter[int]()
        self.array: npt.NDArray[Any] | None = None

    def add(self, label: npt.NDArray[Any]) -> None:
        """Write the next label. All have one shape."""
        if self.array is None:
            self.array = np.lib.format.open_memmap(self.path, "w+", label.dtype, (self.n, *label.shape))
        self.array[self.count] = label
        self.count += 1
        if label.dtype.kind in "iu":
            values, counts = np.unique(label, return_counts=True)
            self.numbers.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def close(self) -> None:
        """Cut the file to the labels that were written."""
        assert self.array is not None  # without a sample that decodes the stage has ended before
        if self.count < self.n:
            kept = np.array(self.array[: self.count])
            self.array = None
            np.save(self.path, kept)
        else:
            self.array.flush()  # type: ignore[attr-defined]


def _write_about(out: Path, digests: npt.NDArray[np.uint64], about: Mapping[str, Any]) -> None:
    """Write digests `[samples]`, with the facts `about` the split."""
    np.save(out / "digests.npy", digests)
    (out / META).write_text(json.dumps(about))


def digest(sample: Arrays) -> int:
    """A 64-bit hash of a sample's arrays, which tells whether the other split holds the same sample."""
    hashed = hashlib.sha256()
    for array in sample.values():
        hashed.update(np.ascontiguousarray(array).data)
    return int.from_bytes(hashed.digest()[:8], "little")


def _in_order(function: Callable[[int], T], items: range, title: str) -> Iterator[T]:
    """`map` over threads, in order, with a limited number of waiting results.

    Pillow decodes without the GIL, so threads run in parallel.
    """
    with ThreadPoolExecutor(WORKERS) as pool, progress(title, len(items)) as advance:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 32 * WORKERS:
                yield waiting.popleft().result()
                advance(1)
        while waiting:
            yield waiting.popleft().result()
            advance(1)


def open_samples(folder: Path, data: AnyData, task: AnyTask) -> Samples:
    """The training split that `decode` wrote. `data.seed` draws the share `data.holdout` that is held out."""
    about, train = _meta(folder), _open(folder, data, task)
    order = permutation(len(train), data.seed, HOLDOUT)
    held = max(1, round(len(train) * data.holdout))
    ids, holdout = np.sort(order[held:]), np.sort(order[:held])
    return Samples(train, ids, holdout, tuple(about["skipped"]), data)


def open_test(folder: Path, data: AnyData, task: AnyTask) -> Unseen:
    """The test split that `decode_test` wrote."""
    about, split = _meta(folder), _open(folder, data, task)
    repeated = np.load(folder / "repeated.npy")
    return Unseen(split.input, split.get, split.labels, split.task, tuple(about["skipped"]), repeated)


def _meta(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / META).read_text())
    return about


def _open(folder: Path, data: AnyData, task: AnyTask) -> Split:
    about, labels = _meta(folder), np.load(folder / LABELS, mmap_mode="r")
    if labels.ndim == 1:  # a map of a few bytes a sample would only be slower
        labels = np.array(labels)
    learnt = TASKS[task.kind](tuple(about["classes"]), labels.shape[1:], task)
    facts = _facts(folder, about["input"])
    input = INPUTS[about["input"]].of(about["shapes"], data, *([] if facts is None else [facts]))
    holds = {name: (about["dtypes"][name], shape) for name, shape in about["shapes"].items()}
    wants = {field.name: (field.dtype, list(field.stored)) for field in input.fields}
    if holds != wants:  # a map would read other numbers without a word
        raise DataError(f"{folder} holds {holds}, and {input.noun} are {wants}; delete the folder, and build again")
    if about["kind"] == "decoded":
        arrays = {
            field.name: np.memmap(
                folder / f"{field.name}.decoded", field.dtype, "r", shape=(len(labels), *field.stored)
            )
            for field in input.fields
        }
        return Split(
            input, lambda ids: {name: np.asarray(array[ids]) for name, array in arrays.items()}, labels, learnt
        )
    encoded, offsets = np.memmap(folder / ENCODED, np.uint8, "r"), np.load(folder / "offsets.npy")
    pool = ThreadPoolExecutor(WORKERS)

    def one(i: int) -> Arrays:
        return input.read(encoded[offsets[i] : offsets[i + 1]].tobytes())

    def get(ids: Ids) -> Arrays:
        samples = list(pool.map(one, ids.tolist()))
        return {field.name: np.stack([sample[field.name] for sample in samples]) for field in input.fields}

    return Split(input, get, labels, learnt)
