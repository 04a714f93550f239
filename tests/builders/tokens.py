"""Tokens: an input of two fields with a free length, and a network that reads them, as a kind beside images would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.base.draws import Floats, Ids, uniform
from edgekd.cache.stage import stage
from edgekd.data.store import write_decoded
from edgekd.inputs import Arrays, Field
from edgekd.recipe import Data

WORDS, LONGEST, CLASSES = 24, 12, ("a", "b", "c")


@dataclass(frozen=True)
class Tokens:
    """Sentences of at most LONGEST words: ids and a mask, int64 `[n, length]`, padded at the end."""

    seed: int = 0

    @classmethod
    def of(cls, shapes: Mapping[str, list[int]], data: Data) -> Tokens:
        assert shapes == {"ids": [LONGEST], "mask": [LONGEST]}
        return cls(data.seed)

    noun = "sentences"
    fields = (Field("ids", "int64", ("length",), LONGEST), Field("mask", "int64", ("length",), LONGEST))
    arguments = fields
    offers = {"vocab_size": WORDS}  # noqa: RUF012

    def mistakes(self) -> Mapping[str, str]:
        return {}

    def read(self, stored: Any) -> Arrays:
        raise ValueError("no sentence is stored encoded")

    def view(self, raw: Arrays, ids: Ids, view: int, seed: int) -> Arrays:
        """In a tenth of the samples the first word is unknown."""
        words = raw["ids"].copy()
        words[uniform(ids, seed, view, 0) < 0.1, 0] = 0
        return {"ids": words, "mask": raw["mask"]}

    def mixed(self, raw: Arrays, partners: Arrays, share: Floats) -> Arrays:
        raise ValueError("sentences are not mixed")

    def preprocess(self) -> nn.Module:
        return AsTheyAre()


class AsTheyAre(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return ids, mask


class Reader(nn.Module):
    """One layer of attention over the words that the mask tells, their mean, and a linear layer."""

    def __init__(self, num_classes: int, vocab_size: int, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x, told = self.embedding(ids), mask.to(torch.float32)
        scores = self.q(x) @ self.k(x).mT * x.shape[-1] ** -0.5 + (told[:, None, :] - 1) * 30
        x = self.norm(x + scores.softmax(-1) @ self.v(x))
        x = x + self.fc2(torch.relu(self.fc1(x)))
        mean = (x * told[:, :, None]).sum(1) / told.sum(1, keepdim=True)
        return self.head(mean)  # type: ignore[no-any-return]


def reader(num_classes: int, vocab_size: int, width: int = 16) -> Reader:
    return Reader(num_classes, vocab_size, width)


def sentences(n: int, seed: int) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """Arrays and labels: each class has words of its own among those that all have."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), n)
    lengths = rng.integers(3, LONGEST + 1, n)
    words = rng.integers(1, 9, (n, LONGEST))
    own = 9 + 5 * labels[:, None] + rng.integers(0, 5, (n, LONGEST))
    words = np.where(rng.random((n, LONGEST)) < 0.4, own, words)
    mask = (np.arange(LONGEST) < lengths[:, None]).astype(np.int64)
    return {"ids": words * mask, "mask": mask}, labels


@stage(1)
def sentences_to_train(n: int, *, out: Path) -> None:
    """Stage: a decoded training split of sentences."""
    write_decoded(out, "tokens", *sentences(n, 0), CLASSES)


@stage(1)
def sentences_to_test(n: int, *, out: Path) -> None:
    """Stage: a decoded test split of sentences."""
    write_decoded(out, "tokens", *sentences(n, 1), CLASSES)
    np.save(out / "repeated.npy", np.zeros(n, bool))
