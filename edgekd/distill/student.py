"""The stages that train: the student from the teacher, and a teacher from labels where it has no weights yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd.data import Samples, open_samples
from edgekd.distill.objective import Objective
from edgekd.distill.teacher import check_cache, load_teacher
from edgekd.distill.train import Lesson, save_weights, train
from edgekd.models import load_model
from edgekd.recipe import Data, Distill, Model, Optimizer, Teacher
from edgekd.stage import Artifact, stage


@stage(1, ("torch", "accelerate"), together=True)
def train_teacher(samples: Artifact, teacher: Teacher, data: Data, *, out: Path) -> None:
    """Stage: train the recipe's teacher on labels for `teacher.train_epochs`."""
    opened = open_samples(samples.folder, data)
    settings = Distill(
        epochs=teacher.train_epochs, batch_size=64, views=teacher.train_epochs, label_weight=1.0, losses=(),
        optimizer=Optimizer(lr=0.05), precision="fp32",
    )  # fmt: skip
    model = new_model(teacher, opened, settings.seed)
    trained = train(model, Lesson(opened, data, None, None), settings, out, title="teacher")
    save_weights(trained, out / "student.safetensors")


@stage(1, ("torch", "accelerate"), together=True)
def distill(
    samples: Artifact, outputs: Artifact | None, teacher: Teacher, trained: Artifact | None, student: Model, data: Data, settings: Distill,
    *, out: Path,
) -> None:  # fmt: skip
    """Stage: train the student by the recipe; writes `student.safetensors` and `metrics.jsonl`."""
    opened = open_samples(samples.folder, data)
    model = new_model(student, opened, settings.seed)
    lesson = lesson_of(opened, data, outputs, teacher, trained, settings)
    save_weights(train(model, lesson, settings, out), out / "student.safetensors")


def new_model(reference: Model, samples: Samples, seed: int) -> nn.Module:
    """The model with weights that `seed` fixes (where the recipe names none)."""
    torch.manual_seed(seed)
    return load_model(reference, num_classes=len(samples.classes), in_channels=samples.image_shape[2])


def load_student(reference: Model, samples: Samples, trained: Artifact) -> nn.Module:
    """The distilled student in eval mode."""
    weights = reference.model_copy(update={"weights": str(trained / "student.safetensors")})
    return load_model(weights, num_classes=len(samples.classes), in_channels=samples.image_shape[2])


def lesson_of(
    samples: Samples,
    data: Data,
    outputs: Artifact | None,
    teacher: Teacher,
    trained: Artifact | None,
    settings: Distill,
) -> Lesson:
    """The cache, checked against the live teacher on a few samples; the live teacher too where a loss reads features."""
    if outputs is None:
        return Lesson(samples, data, None, None)
    live = load_teacher(teacher, trained, samples)
    cached: npt.NDArray[np.float16] = np.load(outputs / "logits.npy", mmap_mode="r")
    check_cache(live, cached, samples, data)
    needs_features = Objective(settings.losses, settings.label_weight).needs_features
    return Lesson(samples, data, cached, live if needs_features else None)
