"""The stages that record a teacher: its outputs for every training sample in every view, and its scores.

The outputs belong to one teacher, one augmentation and one data set. All three are in the key of the stage, and a few
samples are compared with the live teacher before each training.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter
from torch import nn

from edgekd.base import processes
from edgekd.base.console import progress, say
from edgekd.base.contents import write_atomically
from edgekd.base.draws import Ids
from edgekd.cache.stage import SCRATCH, Artifact, stage
from edgekd.data import Samples
from edgekd.distill.cache import FORMAT, CachedLogits, bytes_of, format_of, half
from edgekd.distill.features import Taps, as_tokens
from edgekd.distill.methods.sizes import embedding
from edgekd.errors import CacheError
from edgekd.inputs import Arrays
from edgekd.models import CalledModel, OnnxModel
from edgekd.models.accelerator import device_of
from edgekd.models.forward import BATCH, answers_of, in_halves, logits_of, predict
from edgekd.recipe import Recording
from edgekd.recipe.losses import Layout
from edgekd.steps.problem import EvaluationSet, TrainingSet
from edgekd.steps.trained import Trained

SAVE_EVERY = 40  # batches between two notes of the recording's progress


@stage(6, ("torch", "onnxruntime", "numpy"), of="teacher", together=True, sharded=True)
def record_teacher(teacher: Trained, on: TrainingSet, recording: Recording, *, out: Path) -> None:
    """Stage: record the teacher's logits for the training ids, in a format of edgekd.distill.cache.

    A recording resumes after a kill.
    """
    opened = on.open()
    model = teacher.load_teacher(opened)
    bf16 = recording.bf16 and not isinstance(model, OnnxModel | CalledModel)
    one, rows = opened.train_ids[:1], opened.task.rows
    shape = rows.kept(logits_of(model, opened.input, opened.train.get(one)), one, 0).shape[1:]
    stored = format_of(recording.format, tuple(shape), recording.top_k)

    def values_of(raw: Arrays, ids: Ids, view: int) -> Arrays:
        return stored.encode(rows.kept(logits_of(model, opened.input, raw, bf16=bf16), ids, view).numpy())

    about = {"format": recording.format, "top_k": recording.top_k, "shape": shape, "bf16": bf16}
    what = f"{' x '.join(map(str, shape))} logits in {recording.format}"
    _record(out, opened, recording.views, stored.arrays, values_of, what)
    if processes.RANK == 0:
        (out / FORMAT).write_text(json.dumps(about))


@stage(4, ("torch", "numpy"), of="teacher", together=True, sharded=True)
def record_features(
    teacher: Trained, on: TrainingSet, recording: Recording, layers: Mapping[str, Layout | None], *, out: Path
) -> None:
    """Stage: record pooled features of the teacher's `layers`: a file `N.npy` `[views, samples, channels]` for each."""
    opened = on.open()
    model = teacher.load_teacher(opened)
    with Taps(model, layers, "teacher") as taps:

        def values_of(raw: Arrays, ids: Ids, view: int) -> Arrays:
            return in_halves(pooled, raw, joined)

        def pooled(raw: Arrays) -> Arrays:
            answers_of(model, opened.input, raw, recording.bf16)
            return {str(i): vector(path, layout) for i, (path, layout) in enumerate(layers.items())}

        def vector(path: str, layout: Layout | None) -> npt.NDArray[np.float16]:
            tokens = as_tokens(taps.features[path], layout, path, "of pooled features")
            return half(embedding(tokens).float().cpu().numpy())

        def joined(parts: list[Arrays]) -> Arrays:
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        first = values_of(opened.train.get(opened.train_ids[:1]), opened.train_ids[:1], 0)
        arrays = {name: (np.float16, values.shape[1:]) for name, values in first.items()}
        _record(out, opened, recording.views, arrays, values_of, f"pooled features of {', '.join(layers)}")


def cached_features(recorded: Artifact, layers: Iterable[str]) -> dict[str, npt.NDArray[np.float16]]:
    """The features that `record_features` stored, by layer."""
    return {path: np.load(recorded / f"{i}.npy", mmap_mode="r") for i, path in enumerate(layers)}


def _record(
    out: Path,
    samples: Samples,
    views: int,
    arrays: Mapping[str, tuple[Any, tuple[int, ...]]],
    values_of: Callable[[Arrays, Ids, int], Arrays],
    what: str,
) -> None:
    """Write `values_of` (raw samples, their ids, the view) every view of every training sample to `out`. Each process takes its share of the batches.

    Raises CacheError if the disk lacks space.
    """
    ids = samples.train_ids
    drafts = {name: out / f"{name}.npy" for name in arrays}
    position = out / SCRATCH / f"position-{processes.RANK}-of-{processes.SIZE}.json"
    done = _batches_done(position)
    if processes.RANK == 0 and not all(draft.exists() for draft in drafts.values()):
        _claim(drafts, arrays, (views, len(ids)), what)
    processes.wait()
    opened = {name: np.lib.format.open_memmap(draft, "r+") for name, draft in drafts.items()}
    view_of = samples.views
    starts = [(view, start) for view in range(views) for start in range(0, len(ids), BATCH)][
        processes.RANK :: processes.SIZE
    ]
    with progress("teacher", sum(min(BATCH, len(ids) - start) for _, start in starts)) as advance:
        advance(sum(min(BATCH, len(ids) - start) for _, start in starts[:done]))
        for number, (view, start) in enumerate(starts[done:], start=done + 1):
            shown = ids[start : start + BATCH]
            values = values_of(view_of(shown, view).inputs, shown, view)
            for name, array in opened.items():
                array[view, start : start + BATCH] = values[name]
            advance(min(BATCH, len(ids) - start))
            if number % SAVE_EVERY == 0:
                _flush(opened)
                write_atomically(position, json.dumps(number).encode())
    _flush(opened)
    processes.wait()


def _batches_done(position: Path) -> int:
    """The number of recorded batches in the note; 0 if the note is missing or damaged."""
    try:
        return TypeAdapter(Annotated[int, Field(ge=0, lt=2**62, strict=True)]).validate_json(position.read_bytes())
    except (OSError, ValueError):
        return 0


def _claim(
    drafts: Mapping[str, Path],
    arrays: Mapping[str, tuple[Any, tuple[int, ...]]],
    outer: tuple[int, int],
    what: str,
) -> None:
    """Make the files and reserve their space on disk: a memory map without space would end in a bus error."""
    needed = bytes_of(arrays, math.prod(outer))
    folder = next(iter(drafts.values())).parent
    free = shutil.disk_usage(folder).free
    say(f"  recording {outer[0]} views of {outer[1]} samples, {what}: {needed / 1e6:.1f} MB")
    if needed > free:
        raise CacheError(
            f"the teacher's cache would take {needed / 1e9:.2f} GB, the disk of {folder.parent} has {free / 1e9:.2f}; take fewer "
            'distill.views, distill.cache = "int8" or "topk", of masks a larger task.stride, or another folder with --cache'
        )
    for name, (kind, shape) in arrays.items():
        np.lib.format.open_memmap(drafts[name], "w+", kind, (*outer, *shape)).flush()
        with open(drafts[name], "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, drafts[name].stat().st_size)


def _flush(arrays: Mapping[str, Any]) -> None:
    for array in arrays.values():
        array.flush()


def check_cache(model: nn.Module, cached: CachedLogits, samples: Samples, n: int = 16) -> None:
    """Compare `n` samples of the last view with the live teacher. Raises CacheError if they differ."""
    view = len(cached) - 1
    if cached.shape[1] != len(samples.train_ids):
        raise CacheError(
            f"the teacher's cache holds {cached.shape[1]} samples, the training split {len(samples.train_ids)}; "
            "delete it with `edgekd cache --prune --days 0` and build again"
        )
    rows = np.linspace(0, len(samples.train_ids) - 1, n).astype(np.int64)
    ids = samples.train_ids[rows]
    outputs = logits_of(model, samples.input, samples.views(ids, view).inputs, bf16=cached.bf16)
    live = samples.task.rows.kept(outputs, ids, view).numpy()
    difference = cached.difference((view, rows), live)
    # float16 keeps 11 bits; another processor's order of sums costs a few more.
    if difference > 0.02 * max(1.0, float(np.abs(live).max())):
        raise CacheError(
            f"the teacher's cache does not match the teacher: logits differ by {difference:.3g} on {n} samples "
            "(another teacher, augmentation, normalisation or data?); delete it with `edgekd cache --prune --days 0` and build again"
        )


@stage(5, ("torch", "onnxruntime", "numpy"), of="teacher")
def score_teacher(teacher: Trained, on: EvaluationSet, *, out: Path) -> None:
    """Stage: what the task stores of the teacher's outputs on the test split, `test.npy` `[samples, ...]`."""
    unseen = on.open()
    model = teacher.load_teacher(unseen)
    (out / "runtime.json").write_text(json.dumps(_runtime(model)))
    (stored,) = predict(model, unseen, np.arange(len(unseen)), [unseen.task])
    np.save(out / "test.npy", stored)


def _runtime(model: nn.Module) -> str:
    """What computes a teacher, with its version."""
    if isinstance(model, CalledModel):
        return f"Python {python_version()}"
    if isinstance(model, OnnxModel):
        return f"onnxruntime {version('onnxruntime')} CPU"
    return f"torch {version('torch')} {str(device_of(model)).upper()}"
