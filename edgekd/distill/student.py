"""The stages that train: the student from its teachers, and a teacher from labels where it has no weights yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgekd.data import Samples, open_samples
from edgekd.distill.cache import CachedLogits
from edgekd.distill.objective import Objective
from edgekd.distill.teacher import cached_features, check_cache, load_teacher
from edgekd.distill.train import Lesson, save_weights, train
from edgekd.models import load_model
from edgekd.recipe import Data, Distill, Model, Optimizer, Teacher
from edgekd.stage import Artifact, stage


@dataclass(frozen=True)
class Taught:
    """A teacher and what is stored of it: `outputs` are its recorded logits, `trained` its weights where edgekd trained it."""

    teacher: Teacher
    trained: Artifact | None
    outputs: Artifact | None


@dataclass(frozen=True)
class Lessons:
    """The teachers of a student, the first of which may be read for features: live, or pooled from `features`."""

    teachers: tuple[Taught, ...]
    features: Artifact | None = None


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


@stage(2, ("torch", "accelerate"), together=True)
def distill(samples: Artifact, taught_by: Lessons, student: Model, data: Data, settings: Distill, *, out: Path) -> None:
    """Stage: train the student by the recipe; writes `student.safetensors` and `metrics.jsonl`."""
    opened = open_samples(samples.folder, data)
    model = new_model(student, opened, settings.seed)
    lesson = lesson_of(opened, data, taught_by, settings)
    save_weights(train(model, lesson, settings, out), out / "student.safetensors")


def new_model(reference: Model, samples: Samples, seed: int) -> nn.Module:
    """The model with weights that `seed` fixes (where the recipe names none)."""
    torch.manual_seed(seed)
    return load_model(reference, num_classes=len(samples.classes), in_channels=samples.image_shape[2])


def load_student(reference: Model, samples: Samples, trained: Artifact) -> nn.Module:
    """The distilled student in eval mode."""
    weights = reference.model_copy(update={"weights": str(trained / "student.safetensors")})
    return load_model(weights, num_classes=len(samples.classes), in_channels=samples.image_shape[2])


def lesson_of(samples: Samples, data: Data, taught_by: Lessons, settings: Distill) -> Lesson:
    """The caches, each checked against its live teacher on a few samples; the live teacher too where a loss needs it."""
    objective = Objective(settings.losses, settings.label_weight)
    if not objective.needs_teacher:
        return Lesson(samples, data, None, None)
    cached, live = [], None
    for taught in taught_by.teachers:
        model = load_teacher(taught.teacher, taught.trained, samples)
        assert taught.outputs is not None
        logits = CachedLogits(taught.outputs.folder)
        check_cache(model, logits, samples, data)
        cached.append(logits)
        live = live or model
    features = cached_features(taught_by.features, objective.pooled_features) if taught_by.features is not None else {}
    needs_live = objective.needs_features and not features
    return Lesson(samples, data, cached[0], live if needs_live else None, features, tuple(cached[1:]))
