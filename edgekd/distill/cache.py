"""The teacher's cache on disk: logits `[view, sample, ..., class]` in one of three formats, read as float16 or float32.

    float16    2 bytes a logit
    int8       1 byte: each row between its least and its largest value in 255 steps
    topk       the k largest, and the log-sum-exp of all others, which are read as equal (for very many classes); soft targets
               are exact at temperature 1 and less exact at higher temperatures

Logits are stored, not probabilities, so that every temperature and every logit method can read the same cache.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import ModelError

Floats = npt.NDArray[np.floating[Any]]
Arrays = Mapping[str, npt.NDArray[Any]]
FORMAT = "format.json"


@dataclass(frozen=True)
class Format:
    """A format for stored logits.

    arrays: file -> its type and the shape of one sample; encode, decode: convert a batch to these arrays and back.
    """

    arrays: Mapping[str, tuple[Any, tuple[int, ...]]]
    encode: Callable[[Floats], Arrays]
    decode: Callable[[Arrays], Floats]


def bytes_of(arrays: Mapping[str, tuple[Any, tuple[int, ...]]], samples: int) -> int:
    """The bytes that `samples` samples take in these arrays."""
    return samples * sum(int(np.dtype(kind).itemsize) * math.prod(shape) for kind, shape in arrays.values())


def format_of(name: str, shape: tuple[int, ...], top_k: int) -> Format:
    """The format `name` for samples whose logits have `shape`, `(..., classes)`."""
    *inner, classes = shape
    if name == "int8":
        arrays: dict[str, tuple[Any, tuple[int, ...]]] = {
            "steps": (np.uint8, shape),
            "range": (np.float32, (*inner, 2)),
        }
        return Format(arrays, _to_int8, _from_int8)
    if name == "topk":
        k = min(top_k, classes - 1)
        arrays = {
            "top": (np.float16, (*inner, k)),
            "index": (np.int32, (*inner, k)),
            "tail": (np.float32, tuple(inner)),
        }
        return Format(arrays, lambda z: _to_top_k(z, k), lambda stored: _from_top_k(stored, classes))
    return Format({"logits": (np.float16, shape)}, lambda z: {"logits": half(z)}, lambda stored: stored["logits"])


class CachedLogits:
    """The logits that a stage recorded: `cached[view, rows]` is `[rows, ..., classes]`; shape: `(views, samples)`."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / FORMAT).read_text())
        self.bf16 = bool(about["bf16"])
        self.format = format_of(about["format"], tuple(about["shape"]), about["top_k"])
        self.stored = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in self.format.arrays}
        first = next(iter(self.stored.values()))
        self.shape = first.shape[:2]

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, place: tuple[int, npt.NDArray[np.int64]]) -> Floats:
        return self.format.decode({name: array[place] for name, array in self.stored.items()})

    def difference(self, place: tuple[int, npt.NDArray[np.int64]], logits: Floats) -> float:
        """The largest difference between the stored logits and `logits`, after the format's rounding.

        With topk only the stored k logits are compared.
        """
        if "index" not in self.stored:
            return float(np.abs(self[place].astype(np.float32) - self.format.decode(self.format.encode(logits))).max())
        top, index = self.stored["top"][place].astype(np.float32), self.stored["index"][place]
        return float(np.abs(top - np.take_along_axis(logits, index.astype(np.int64), axis=-1)).max())


def half(z: Floats) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = z.astype(np.float16)
    if not np.isfinite(half).all():
        raise ModelError(f"the teacher's outputs reach {np.abs(z).max():.3g}, beyond float16; scale them down")
    return half


def _to_int8(z: Floats) -> Arrays:
    if not np.isfinite(z).all():
        raise ModelError("the teacher's logits hold infinity or NaN")
    low, high = z.min(-1, keepdims=True), z.max(-1, keepdims=True)
    steps = np.rint((z - low) / np.maximum(high - low, 1e-12) * 255).astype(np.uint8)
    return {"steps": steps, "range": np.concatenate([low, high], -1).astype(np.float32)}


def _from_int8(stored: Arrays) -> Floats:
    low, high = stored["range"][..., :1], stored["range"][..., 1:]
    values: Floats = low + stored["steps"].astype(np.float32) * ((high - low) / 255)
    return values


def _to_top_k(z: Floats, k: int) -> Arrays:
    index = np.argpartition(-z, k - 1, axis=-1)[..., :k].astype(np.int32)
    others = z.astype(np.float64)
    np.put_along_axis(others, index, -np.inf, axis=-1)
    largest = others.max(-1)
    tail = largest + np.log(np.exp(others - largest[..., None]).sum(-1))
    return {"top": half(np.take_along_axis(z, index, axis=-1)), "index": index, "tail": tail.astype(np.float32)}


def _from_top_k(stored: Arrays, classes: int) -> Floats:
    """Logits from the top k: all other classes share the tail's mass equally.

    The soft targets of the top k are exact at T = 1.
    """
    k = stored["top"].shape[-1]
    z = np.repeat((stored["tail"] - np.log(classes - k))[..., None], classes, axis=-1).astype(np.float32)
    np.put_along_axis(z, stored["index"], stored["top"].astype(np.float32), axis=-1)
    return z
