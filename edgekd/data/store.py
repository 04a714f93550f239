"""The decoded store: every image decoded once into one uint8 array on disk, which training maps into memory.

Where that array would be larger than `data.store_gb`, the encoded images are kept instead and decoded when asked for:
the same pixels, hence the same views and the same results, at the price of decoding in every epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgekd import recipe
from edgekd.base.console import progress, say
from edgekd.cache.stage import Artifact, stage
from edgekd.data.picture import Pixels
from edgekd.data.sources import Source, decode_image, open_source, with_classes_of
from edgekd.data.views import Ids, permutation
from edgekd.errors import DataError
from edgekd.recipe import Data
from edgekd.tasks.classify import Classify
from edgekd.tasks.protocol import Task

T = TypeVar("T")
WORKERS = min(32, os.cpu_count() or 1)
META = "meta.json"
HOLDOUT = 0x401D  # a coordinate of its own, so that the split shares no random number with any view


@dataclass(frozen=True)
class Split:
    """One split: `get(ids)` gives uint8 `[n, h, w, channels]`; labels int64 `[samples]`."""

    get: Callable[[Ids], Pixels]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Samples:
    """The training split. Training uses `train_ids`, every choice `holdout_ids`, both of them ids of `train`."""

    train: Split
    train_ids: Ids
    holdout_ids: Ids
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    skipped: tuple[str, ...]

    @property
    def task(self) -> Task:
        """What is asked of a network."""
        return Classify(self.classes)


@dataclass(frozen=True)
class Unseen(Split):
    """The test split, which the final check alone reads; its labels are numbers of train's classes.

    `repeated` tells of each sample whether the very same pixels are in train too.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    skipped: tuple[str, ...]
    repeated: npt.NDArray[np.bool_]

    @property
    def task(self) -> Task:
        """What is asked of a network."""
        return Classify(self.classes)


@stage(3, ("pillow", "pyarrow", "numpy"))
def decode(source: recipe.Source, *, out: Path) -> None:
    """Stage: read the training split into `out`.

    Raises DataError for what cannot be read, for images of different sizes without `data.size`, and, unless
    `data.on_error` is "skip", for the first image that does not decode, by its name.
    """
    found = open_source(source.files, "train", source.column, source.label)
    _write(found, "train", _first_shape(found, source), source, _room_gb(source, out), out)


@stage(1, ("pillow", "pyarrow", "numpy"))
def decode_test(source: recipe.Source, train: Artifact, *, out: Path) -> None:
    """Stage: read the test split into `out`, its labels numbered as train's classes are; also which samples train has too.

    Raises DataError as `decode` does, and for classes that train has not. It is in no key of a stage that trains.
    """
    about = _meta(train.folder)
    found = with_classes_of(tuple(about["classes"]), open_source(source.files, "test", source.column, source.label))
    taken_gb = (train / f"samples.{about['kind']}").stat().st_size / 1e9
    digests = _write(found, "test", tuple(about["image_shape"]), source, _room_gb(source, out, taken_gb), out)
    np.save(out / "repeated.npy", np.isin(digests, np.load(train / "digests.npy")))


def _room_gb(source: recipe.Source, out: Path, taken_gb: float = 0.0) -> float:
    """The gigabytes that a split may take decoded: the rest of the recipe's limit, or half of the free disk."""
    return max(0.0, source.store_gb - taken_gb) if source.store_gb is not None else shutil.disk_usage(out).free / 2e9


def _first_shape(found: Source, source: recipe.Source) -> tuple[int, int, int]:
    for i in range(len(found)):
        try:
            height, width, channels = decode_image(found.read(i), source.size, source.channels).shape
            return height, width, channels
        except ValueError as error:
            if source.on_error == "stop":
                raise _does_not_decode(found.name(i), error) from error
    raise DataError(f"data.train = '{source.files}': not one of its {len(found)} images decodes")


def _does_not_decode(name: str, error: Exception) -> DataError:
    return DataError(f'{name} does not decode: {error}; mend or remove it, or set data.on_error = "skip"')


def _write(
    found: Source, split: str, shape: tuple[int, int, int], source: recipe.Source, allowed_gb: float, out: Path
) -> npt.NDArray[np.uint64]:
    """Write one split in its own order; gives the digest of each sample that was kept.

    Raises DataError where no image of a class of train is left; test may lack one.
    """
    needed_gb = len(found) * int(np.prod(shape)) / 1e9
    is_encoded = isinstance(found.read(0), bytes)  # a Python function gives pixels: nothing to decode later
    kind = "encoded" if is_encoded and needed_gb > allowed_gb else "decoded"
    if kind == "encoded":
        say(
            f"the decoded images of {split} would take {needed_gb:.2f} GB, more than data.store_gb allows ({allowed_gb:.2f}): "
            "decoding on the fly"
        )
    kept, digests, skipped, offsets = [], [], [], [0]

    def read(i: int) -> tuple[bytes | Pixels, Pixels | ValueError, int]:
        sample = found.read(i)
        try:
            image = decode_image(sample, source.size, source.channels)
        except ValueError as error:
            return sample, error, 0
        return sample, image, digest(image)

    with open(out / f"samples.{kind}", "wb") as file:
        for i, (sample, image, hashed) in enumerate(_in_order(read, range(len(found)), f"decoding {split}")):
            if isinstance(image, ValueError):
                if source.on_error == "stop":
                    raise _does_not_decode(found.name(i), image) from image
                skipped.append(found.name(i))
                continue
            if image.shape != shape:
                raise _has_another_shape(found.name(i), image.shape, shape)
            kept.append(found.labels[i])
            digests.append(hashed)
            stored = sample if kind == "encoded" and isinstance(sample, bytes) else image.tobytes()
            offsets.append(offsets[-1] + file.write(stored))
    if skipped:
        say(f"{split}: {len(skipped)} of {len(found)} images do not decode and are left out, the first: {skipped[0]}")
    missing = set(found.labels.tolist()) - {int(label) for label in kept}
    if missing and split == "train":
        raise DataError(f"{split}: no image of class {', '.join(found.classes[i] for i in sorted(missing))} decodes")
    np.save(out / "offsets.npy", np.array(offsets, np.int64))
    about = {"classes": found.classes, "image_shape": shape, "kind": kind, "skipped": skipped}
    write_about(out, np.array(kept, np.int64), np.array(digests, np.uint64), about | _how(source))
    return np.array(digests, np.uint64)


def write_about(
    out: Path, labels: npt.NDArray[np.int64], digests: npt.NDArray[np.uint64], about: Mapping[str, Any]
) -> None:
    """What is known of a split beside its pixels: labels `[samples]`, digests `[samples]`, classes, shape, how they are kept."""
    np.save(out / "labels.npy", labels)
    np.save(out / "digests.npy", digests)
    (out / META).write_text(json.dumps(about))


def _how(source: recipe.Source) -> dict[str, Any]:
    return {"size": source.size, "channels": source.channels}


def _has_another_shape(name: str, found: tuple[int, ...], first: tuple[int, int, int]) -> DataError:
    return DataError(
        f"{name} is {found[1]}x{found[0]} with {found[2]} channels, the first image of "
        f"train is {first[1]}x{first[0]} with {first[2]}; set data.size = [height, width]"
    )


def digest(image: Pixels) -> int:
    """64 bits of the hash of a sample's pixels, by which it is known again in the other split."""
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8], "little")


def _in_order(function: Callable[[int], T], items: range, title: str) -> Iterator[T]:
    """`map` over threads, in order, with a bounded number of results waiting (Pillow decodes without the GIL)."""
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


def open_samples(folder: Path, data: Data) -> Samples:
    """The training split that `decode` wrote, `data.holdout` of it held out by `data.seed`."""
    about, train = _meta(folder), _open(folder)
    order = permutation(len(train), data.seed, HOLDOUT)
    held = max(1, round(len(train) * data.holdout))
    return Samples(
        train, np.sort(order[held:]), np.sort(order[:held]), tuple(about["classes"]), tuple(about["image_shape"]),
        tuple(about["skipped"]),
    )  # fmt: skip


def open_test(folder: Path) -> Unseen:
    """The test split that `decode_test` wrote."""
    about, split = _meta(folder), _open(folder)
    return Unseen(
        split.get, split.labels, tuple(about["classes"]), tuple(about["image_shape"]), tuple(about["skipped"]),
        np.load(folder / "repeated.npy"),
    )  # fmt: skip


def _meta(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / META).read_text())
    return about


def _open(folder: Path) -> Split:
    about, labels = _meta(folder), np.load(folder / "labels.npy")
    shape = (len(labels), *about["image_shape"])
    if about["kind"] == "decoded":
        images = np.memmap(folder / "samples.decoded", np.uint8, "r", shape=shape)
        return Split(lambda ids: np.asarray(images[ids]), labels)
    encoded = np.memmap(folder / "samples.encoded", np.uint8, "r")
    offsets = np.load(folder / "offsets.npy")
    size = tuple(about["size"]) if about["size"] else None
    pool = ThreadPoolExecutor(WORKERS)

    def one(i: int) -> Pixels:
        return decode_image(encoded[offsets[i] : offsets[i + 1]].tobytes(), size, about["channels"])

    return Split(lambda ids: np.stack(list(pool.map(one, ids.tolist()))), labels)
