"""The teacher's cache: its logits for every training sample in every view, recorded once.

One memory-mapped array `[view, sample, class]` of float16 logits (not probabilities: every temperature and every logit
method reads the same). It belongs to one teacher, one augmentation and one data set: all three are in the key of the
stage that records it, and a few samples are compared with the live teacher before each training.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd.data import Samples, Split, Views, open_samples
from edgekd.data.batches import to_tensor
from edgekd.errors import CacheError, ModelError
from edgekd.models import OnnxModel, load_model
from edgekd.recipe import Data, Teacher
from edgekd.say import progress
from edgekd.stage import SCRATCH, Artifact, stage, write_atomically

BATCH = 250
SAVE_EVERY = 40  # batches between two notes of how far the recording has come


def load_teacher(teacher: Teacher, trained: Artifact | None, samples: Samples) -> nn.Module:
    """The frozen teacher; `trained` is the artifact that holds its weights where edgekd trained it itself."""
    if trained is not None:
        teacher = teacher.model_copy(update={"weights": str(trained / "student.safetensors")})
    model = load_model(teacher, num_classes=len(samples.classes), in_channels=samples.image_shape[2])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(device())


def device() -> torch.device:
    """The accelerator where there is one, else the processor."""
    return (
        torch.accelerator.current_accelerator() or torch.device("cpu")
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )


@torch.inference_mode()
def logits_of(model: nn.Module, images: npt.NDArray[np.uint8], data: Data) -> torch.Tensor:
    """Logits float32 `[n, classes]` of uint8 images `[n, h, w, channels]`."""
    return model(to_tensor(images, data, device())).float().cpu()  # type: ignore[no-any-return]


@stage(1, ("torch", "onnxruntime"))
def record_teacher(
    samples: Artifact, teacher: Teacher, trained: Artifact | None, data: Data, views: int, *, out: Path
) -> None:
    """Stage: write `logits.npy` `[views, samples, classes]` for the training ids; a killed recording goes on."""
    opened = open_samples(samples.folder, data)
    model = load_teacher(teacher, trained, opened)
    ids = opened.train_ids
    shape = (views, len(ids), len(opened.classes))
    draft, position = out / "logits.npy", out / SCRATCH / "position.json"
    done = json.loads(position.read_text()) if position.exists() else 0
    logits = np.lib.format.open_memmap(draft, "r+" if done else "w+", np.float16, shape)
    with open(draft, "r+b") as file:  # claims the disk's space now: a map that cannot grow would end in a bus error
        os.posix_fallocate(file.fileno(), 0, draft.stat().st_size)
    view_of = views_of(opened, data)
    starts = [(view, start) for view in range(views) for start in range(0, len(ids), BATCH)]
    with progress("teacher", views * len(ids)) as advance:
        advance(sum(min(BATCH, len(ids) - start) for _, start in starts[:done]))
        for number, (view, start) in enumerate(starts[done:], start=done + 1):
            batch = view_of(ids[start : start + BATCH], view)
            values = logits_of(model, batch.images, data).numpy()
            if not np.isfinite(values.astype(np.float16)).all():
                raise ModelError(
                    f"the teacher's logits reach {np.abs(values).max():.3g}, beyond float16; scale its output down"
                )
            logits[view, start : start + BATCH] = values
            advance(len(values))
            if number % SAVE_EVERY == 0:
                logits.flush()
                write_atomically(position, json.dumps(number).encode())
    logits.flush()


def views_of(samples: Samples, data: Data) -> Views:
    """The training split's views as the recipe augments them."""
    return Views(samples.train.get, samples.train.labels, samples.train_ids, data.augment, data.seed, data.mean)


def check_cache(model: nn.Module, cached: npt.NDArray[np.float16], samples: Samples, data: Data, n: int = 16) -> None:
    """Compare `n` samples of the last view with the live teacher; CacheError where they differ."""
    view = len(cached) - 1
    rows = np.linspace(0, len(samples.train_ids) - 1, n).astype(np.int64)
    live = logits_of(model, views_of(samples, data)(samples.train_ids[rows], view).images, data).numpy()
    stored = cached[view, rows].astype(np.float32)
    difference = float(np.abs(live - stored).max())
    # float16 keeps 11 bits; bf16 or another processor's order of sums costs a few more.
    if difference > 0.02 * max(1.0, float(np.abs(live).max())):
        raise CacheError(
            f"the teacher's cache does not match the teacher: logits differ by {difference:.3g} on {n} samples; "
            "delete it with `edgekd cache --prune` and build again"
        )


@stage(1, ("torch", "onnxruntime"))
def score_teacher(samples: Artifact, teacher: Teacher, trained: Artifact | None, data: Data, *, out: Path) -> None:
    """Stage: the teacher's logits on the test split, `test.npy` float32 `[samples, classes]`."""
    opened = open_samples(samples.folder, data)
    model = load_teacher(teacher, trained, opened)
    runtime = "onnxruntime" if isinstance(model, OnnxModel) else "torch"
    where = "CPU" if runtime == "onnxruntime" else str(device()).upper()
    (out / "runtime.json").write_text(json.dumps(f"{runtime} {version(runtime)} {where}"))
    np.save(out / "test.npy", predict(model, opened.test, np.arange(len(opened.test)), data))


def predict(model: nn.Module, split: Split, ids: npt.NDArray[np.int64], data: Data) -> npt.NDArray[np.float32]:
    """Logits of unaugmented samples, float32 `[n, classes]`."""
    starts = range(0, len(ids), BATCH)
    return np.concatenate([logits_of(model, split.get(ids[start : start + BATCH]), data).numpy() for start in starts])


def top1(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share of rows whose largest logit is the label's, in percent."""
    return float(100 * (logits.argmax(1) == labels).mean())
