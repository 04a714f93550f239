"""A tiny training set, a network for it, and settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.data import Samples, Split
from edgekd.distill.cache import FORMAT, CachedLogits, format_of
from edgekd.distill.lesson import Lesson, TaskLesson
from edgekd.inputs import Image
from edgekd.inputs.image import INPUT
from edgekd.recipe import Data, Distill, Optimizer
from edgekd.tasks.classify import Classify

DATA = Data(train="a", test="b", mean=(0.2,), std=(0.2,), augment={"crop_padding": 1})  # type: ignore[arg-type]

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 96)
# Three kinds of picture with noise: bright on the left, in the middle, on the right.
PIXELS = RNG.integers(0, 60, (96, 6, 6, 1), dtype=np.uint8)
PIXELS[np.arange(96), :, 2 * LABELS] += 150
IDS = np.arange(96)


def samples(data: Data = DATA) -> Samples:
    split = Split(
        Image.of({INPUT: [6, 6, 1]}, data),
        lambda ids: {INPUT: PIXELS[ids]},
        LABELS,
        Classify(("left", "middle", "right")),
    )
    return Samples(split, IDS[:80], IDS[80:], (), data)


def lesson_on(
    samples: Samples,
    cached: Any = None,
    live: nn.Module | None = None,
    *,
    more: tuple[Any, ...] = (),
    **about: Any,
) -> Lesson:
    """A lesson of one task; `cached`, `more`: the logits of its teachers."""
    return Lesson((TaskLesson(samples, cached=(*([] if cached is None else [cached]), *more), live=live, **about),))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(144, 3)
    )


def settings(**changes: Any) -> Distill:
    given: dict[str, Any] = {
        "epochs": 4, "batch_size": 16, "views": 2, "label_weight": 1.0, "losses": (), "precision": "fp32",
        "optimizer": Optimizer(lr=0.05),
    }  # fmt: skip
    return Distill(**given | changes)


def stored(folder: Path, logits: np.ndarray, name: str = "float16", top_k: int = 4) -> CachedLogits:  # type: ignore[type-arg]
    """A cache of these logits `[views, samples, classes]`, as `record_teacher` leaves it."""
    stored_as = format_of(name, logits.shape[2:], top_k)
    views = [stored_as.encode(view) for view in logits]
    for array in views[0]:
        np.save(folder / f"{array}.npy", np.stack([view[array] for view in views]))
    about = {"format": name, "top_k": top_k, "shape": logits.shape[2:], "bf16": False}
    (folder / FORMAT).write_text(json.dumps(about))
    return CachedLogits(folder)
