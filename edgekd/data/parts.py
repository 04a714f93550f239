"""Parts: train and test drawn from one source, by the content of each sample.

A sample's side follows from its bytes and the seed alone, not from its place or its name. So further files move no sample
to the other side, and copies of a sample stay on one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.base.console import say
from edgekd.data.encoded import EncodedSplit
from edgekd.data.labels import Lazily
from edgekd.errors import DataError
from edgekd.recipe import Part

Floats = npt.NDArray[np.float64]


def part_of(source: EncodedSplit, part: Part, many: str) -> EncodedSplit:
    """The samples of train or of test. many: the word for samples.

    Test takes the samples whose hash, a number in 0..1, is below `part.share`: of each class about that share. A class of two
    or more samples has at least one on each side. Raises DataError for fewer than two samples.
    """
    if len(source) < 2:
        raise DataError(f"test = {part.share:g} is a share of train, which has {len(source)} {many}; give at least 2")
    places = np.array([place(source.read(i), part.seed) for i in range(len(source))])
    labels = source.labels if _are_classes(source.labels) else np.zeros(len(source), np.int64)
    in_test = chosen(places, labels, part.share)
    if part.split == "train":
        _tell(in_test, labels, part, many)
    ids = np.flatnonzero(in_test == (part.split == "test"))
    kept = source.labels
    labels_of = kept[ids] if isinstance(kept, np.ndarray) else Lazily(len(ids), lambda i: kept[int(ids[i])])
    return replace(
        source, labels=labels_of, read=lambda i: source.read(int(ids[i])), name=lambda i: source.name(int(ids[i]))
    )


def chosen(places: Floats, labels: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """Whether test takes each sample `[n]`, of places in 0..1 and labels `[n]`."""
    in_test = places < share
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if len(own) > 1 and not in_test[own].any():
            in_test[own[np.argmin(places[own])]] = True
        elif in_test[own].all():  # of a single sample too: train has every class
            in_test[own[np.argmax(places[own])]] = False
    return in_test


def place(sample: Any, seed: int) -> float:
    """A number in [0, 1) that follows from a sample's content and the seed."""
    hashed = hashlib.sha256(f"{seed}\n".encode())
    if isinstance(sample, bytes):
        hashed.update(sample)
    elif isinstance(sample, Mapping):  # the cells of a row
        hashed.update(repr(sorted(sample.items())).encode("utf-8", "surrogatepass"))
    else:
        array = np.ascontiguousarray(sample)
        hashed.update(f"{array.dtype} {array.shape}\n".encode())
        hashed.update(array.tobytes())
    return int.from_bytes(hashed.digest()[:8], "big") / 2.0**64


def _are_classes(labels: Any) -> bool:
    return isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu"


def _tell(in_test: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64], part: Part, many: str) -> None:
    """Print what test takes, and where a class differs from the share."""
    n, taken = len(in_test), int(in_test.sum())
    counts = np.bincount(labels)
    shares = 100 * np.bincount(labels[in_test], minlength=len(counts))[counts > 0] / counts[counts > 0]
    of_each = f", of each class {shares.min():.0f} to {shares.max():.0f} %" if len(shares) > 1 else ""
    uneven = len(shares) > 1 and (shares.min() < 50 * part.share or shares.max() > 150 * part.share)
    of_each += "; uneven, as few samples are: data.test_seed = 1 draws another" if uneven else ""
    say(
        f"test = {part.share:g}: {taken:,} of {n:,} {many} ({100 * taken / n:.1f} %{of_each}), by the content of each; train has "
        f"the other {n - taken:,}"
    )
