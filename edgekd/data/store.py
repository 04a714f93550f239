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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgekd import recipe
from edgekd.base.console import progress, say
from edgekd.cache.stage import stage
from edgekd.data.picture import Pixels
from edgekd.data.sources import Source, decode_image, open_source, with_classes_of
from edgekd.data.views import Ids, permutation
from edgekd.errors import DataError
from edgekd.recipe import Data

T = TypeVar("T")
WORKERS = min(32, os.cpu_count() or 1)
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
    """Both splits. Training uses `train_ids`, every choice `holdout_ids` (both of `train`), the final check `test`.

    `repeated` tells of each test sample whether the very same pixels are in `train` too.
    """

    train: Split
    test: Split
    train_ids: Ids
    holdout_ids: Ids
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    skipped: tuple[str, ...]
    repeated: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))


@dataclass(frozen=True)
class Written:
    """What of a split was written: the names of samples that were skipped, and the hash of each one that was kept."""

    skipped: list[str]
    digests: npt.NDArray[np.uint64]


@stage(2, ("pillow", "pyarrow", "numpy"))
def decode(data: recipe.Source, *, out: Path) -> None:
    """Stage: read both splits into `out`.

    Raises DataError for what cannot be read, for images of different sizes without `data.size`, and, unless
    `data.on_error` is "skip", for the first image that does not decode, by its name.
    """
    sources = {split: open_source(getattr(data, split), split, data.column, data.label) for split in ("train", "test")}
    sources["test"] = with_classes_of(sources["train"], sources["test"])
    shape = _first_shape(sources["train"], data)
    needed = sum(len(source) for source in sources.values()) * int(np.prod(shape)) / 1e9
    allowed = data.store_gb if data.store_gb is not None else shutil.disk_usage(out).free / 2e9
    is_encoded = isinstance(sources["train"].read(0), bytes)  # a Python function gives pixels: nothing to decode later
    kind = "encoded" if is_encoded and needed > allowed else "decoded"
    if kind == "encoded":
        say(
            f"the decoded images would take {needed:.2f} GB, more than data.store_gb allows ({allowed:.2f}): decoding on the fly"
        )
    train, test = (_write(source, split, shape, data, kind, out) for split, source in sources.items())
    np.save(out / "test.repeated.npy", np.isin(test.digests, train.digests))
    meta = {
        "classes": sources["train"].classes,
        "image_shape": shape,
        "kind": kind,
        "skipped": [*train.skipped, *test.skipped],
        "size": data.size,
        "channels": data.channels,
    }
    (out / "meta.json").write_text(json.dumps(meta))


def _first_shape(source: Source, data: recipe.Source) -> tuple[int, int, int]:
    for i in range(len(source)):
        try:
            height, width, channels = decode_image(source.read(i), data.size, data.channels).shape
            return height, width, channels
        except ValueError as error:
            if data.on_error == "stop":
                raise _does_not_decode(source.name(i), error) from error
    raise DataError(f"data.train = '{data.train}': not one of its {len(source)} images decodes")


def _does_not_decode(name: str, error: Exception) -> DataError:
    return DataError(f'{name} does not decode: {error}; mend or remove it, or set data.on_error = "skip"')


def _write(
    source: Source, split: str, shape: tuple[int, int, int], data: recipe.Source, kind: str, out: Path
) -> Written:
    """Write one split in its own order.

    Raises DataError where no image of a class of train is left; test may lack one.
    """
    kept, digests, skipped, offsets = [], [], [], [0]

    def read(i: int) -> tuple[bytes | Pixels, Pixels | ValueError, int]:
        sample = source.read(i)
        try:
            image = decode_image(sample, data.size, data.channels)
        except ValueError as error:
            return sample, error, 0
        return sample, image, digest(image)

    with open(out / f"{split}.{kind}", "wb") as file:
        for i, (sample, image, hashed) in enumerate(_in_order(read, range(len(source)), f"decoding {split}")):
            if isinstance(image, ValueError):
                if data.on_error == "stop":
                    raise _does_not_decode(source.name(i), image) from image
                skipped.append(source.name(i))
                continue
            if image.shape != shape:
                raise DataError(
                    f"{source.name(i)} is {image.shape[1]}x{image.shape[0]} with {image.shape[2]} channels, the first image of "
                    f"train is {shape[1]}x{shape[0]} with {shape[2]}; set data.size = [height, width]"
                )
            kept.append(source.labels[i])
            digests.append(hashed)
            stored = sample if kind == "encoded" and isinstance(sample, bytes) else image.tobytes()
            offsets.append(offsets[-1] + file.write(stored))
    np.save(out / f"{split}.labels.npy", np.array(kept, np.int64))
    np.save(out / f"{split}.offsets.npy", np.array(offsets, np.int64))
    if skipped:
        say(f"{split}: {len(skipped)} of {len(source)} images do not decode and are left out, the first: {skipped[0]}")
    missing = set(source.labels.tolist()) - {int(label) for label in kept}
    if missing and split == "train":
        raise DataError(f"{split}: no image of class {', '.join(source.classes[i] for i in sorted(missing))} decodes")
    return Written(skipped, np.array(digests, np.uint64))


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
    """What `decode` wrote, with `data.holdout` of train held out by `data.seed`."""
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    train, test = (_open_split(folder, split, meta) for split in ("train", "test"))
    order = permutation(len(train), data.seed, HOLDOUT)
    held = max(1, round(len(train) * data.holdout))
    return Samples(
        train, test, np.sort(order[held:]), np.sort(order[:held]), tuple(meta["classes"]), tuple(meta["image_shape"]),
        tuple(meta["skipped"]), np.load(folder / "test.repeated.npy"),
    )  # fmt: skip


def _open_split(folder: Path, split: str, meta: dict[str, Any]) -> Split:
    labels = np.load(folder / f"{split}.labels.npy")
    shape = (len(labels), *meta["image_shape"])
    if meta["kind"] == "decoded":
        images = np.memmap(folder / f"{split}.decoded", np.uint8, "r", shape=shape)
        return Split(lambda ids: np.asarray(images[ids]), labels)
    encoded = np.memmap(folder / f"{split}.encoded", np.uint8, "r")
    offsets = np.load(folder / f"{split}.offsets.npy")
    size = tuple(meta["size"]) if meta["size"] else None
    pool = ThreadPoolExecutor(WORKERS)

    def one(i: int) -> Pixels:
        return decode_image(encoded[offsets[i] : offsets[i + 1]].tobytes(), size, meta["channels"])

    return Split(lambda ids: np.stack(list(pool.map(one, ids.tolist()))), labels)
