"""The stages that train: the student from its teachers, and a teacher from labels where it has no weights yet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgekd.base import processes
from edgekd.base.console import say
from edgekd.cache.stage import Artifact, stage
from edgekd.data import Samples, open_samples
from edgekd.distill.cache import CachedLogits
from edgekd.distill.methods import METHODS
from edgekd.distill.methods.simkd import SimStudent
from edgekd.distill.objective import Objective
from edgekd.distill.train import Lesson, TaskLesson, save_weights, train
from edgekd.models.adapt import adapt
from edgekd.recipe import Data, Distill, Model, Optimizer, Student, Teacher, TeacherModel
from edgekd.recipe.losses import reads_teacher
from edgekd.steps.record import cached_features, check_cache, load_teacher
from edgekd.steps.trained import REUSED, WEIGHTS, initialise, new_model


@dataclass(frozen=True)
class Taught:
    """A teacher and what is stored of it: `outputs` are its recorded logits, `trained` its weights where edgekd trained it.

    `samples` and `data` are what it sees: another column of the same rows, perhaps.
    """

    teacher: Teacher
    trained: Artifact | None
    outputs: Artifact
    samples: Artifact
    data: Data


@dataclass(frozen=True)
class Beginning:
    """The model whose weights a student begins with (`student.init`); `trained` where edgekd trained it."""

    source: Model
    trained: Artifact | None


@dataclass(frozen=True)
class Lessons:
    """The teachers of a student, the first of which may be read for features: live, or pooled from `features`; and those of
    its further tasks."""

    teachers: tuple[Taught, ...]
    features: Artifact | None = None
    tasks: tuple[TaskTaught, ...] = ()


@dataclass(frozen=True)
class TaskTaught:
    """A further task of the student: its labels and its teacher, of which `taught` is recorded where a loss reads one."""

    name: str
    weight: float
    samples: Artifact
    data: Data
    teacher: Teacher
    taught: Taught | None


@stage(2, ("torch", "accelerate", "numpy"), together=True)
def train_teacher(samples: Artifact, teacher: Teacher, data: Data, *, out: Path) -> None:
    """Stage: train the recipe's teacher on labels for `teacher.train_epochs`."""
    opened = open_samples(samples.folder, data)
    settings = Distill(
        epochs=teacher.train_epochs, batch_size=64, views=teacher.train_epochs, label_weight=1.0, losses=(),
        optimizer=Optimizer(lr=0.05), precision="fp32",
    )  # fmt: skip
    model = adapt(new_model(teacher, opened, settings.seed), teacher, opened.classes)
    trained = train(model, Lesson(opened, data, None, None), settings, out, title="teacher")
    save_weights(trained, out / WEIGHTS)


@stage(6, ("torch", "accelerate", "numpy"), together=True)
def distill(
    samples: Artifact,
    taught_by: Lessons,
    student: Student,
    first: Beginning | None,
    data: Data,
    settings: Distill,
    *,
    out: Path,
) -> None:
    """Stage: train the student by the recipe; writes `student.safetensors` and `metrics.jsonl`.

    `first` is the model whose weights the student begins with, where it has `student.init`.
    """
    opened = open_samples(samples.folder, data)
    model = new_student(student, first, opened, settings.seed)
    lesson = lesson_of(opened, data, taught_by, settings)
    trained = train(model, lesson, settings, out)
    if isinstance(trained, SimStudent) and processes.RANK == 0:
        path = next(iter(loss.layers for loss in settings.losses if loss.method == "simkd"))
        about = {"path": next(iter(path)), "size": trained.size, "added_parameters": trained.added_parameters}
        (out / REUSED).write_text(json.dumps(about))
    save_weights(trained, out / WEIGHTS)


def new_student(student: Student, first: Beginning | None, samples: Samples, seed: int) -> nn.Module:
    """The student as its training begins."""
    model = new_model(student, samples, seed)
    if student.init is not None and first is not None:
        initialise(model, student.init, first.source, first.trained, samples)
    return model


def beginning(student: Student, teacher: Teacher | None, trained: Artifact | None) -> Beginning | None:
    """What the student begins with, where the recipe has `student.init`: the teacher's weights, or those of its source."""
    if student.init is None:
        return None
    if student.init.source is not None:
        return Beginning(student.init.source, None)
    assert teacher is not None  # edgekd.recipe.refusals
    return Beginning(teacher, trained)


def without_teacher(settings: Distill) -> Distill:
    """How the first generation of a student that teaches itself learns: from labels, and by what reads no teacher."""
    losses = [loss for loss in settings.losses if loss.weight]
    going = tuple(loss for loss in losses if not reads_teacher(METHODS[loss.method]))
    if len(going) < len(losses):
        say(f"  there is no teacher yet: it learns from {', '.join(['labels', *(loss.method for loss in going)])}")
    return settings.model_copy(update={"losses": going, "label_weight": 1.0})


def as_student(model: Model) -> Student:
    """This model as a `Student` table."""
    return Student(**dict(model))


def as_teacher(model: Model) -> Teacher:
    """And teaches as a teacher does."""
    return Teacher(**{name: value for name, value in model if name in TeacherModel.model_fields})


def lesson_of(samples: Samples, data: Data, taught_by: Lessons, settings: Distill) -> Lesson:
    """The caches, each checked against its live teacher on a few samples; the live teacher too where a loss needs it."""
    objective = Objective(settings.losses, settings.label_weight)
    tasks = tuple(map(_task_lesson, taught_by.tasks))
    if not objective.needs_teacher:
        return Lesson(samples, data, None, None, tasks=tasks)
    cached, live = [], None
    for taught in taught_by.teachers:
        logits, model = recorded(taught)
        cached.append(logits)
        live = live or model
    features = cached_features(taught_by.features, objective.pooled_features) if taught_by.features is not None else {}
    needs_live = objective.needs_features and not features
    seen_as = taught_by.teachers[0].data
    otherwise = seen_as if (seen_as.mean, seen_as.std) != (data.mean, data.std) else None
    return Lesson(samples, data, cached[0], live if needs_live else None, features, tuple(cached[1:]), otherwise, tasks)


def _task_lesson(task: TaskTaught) -> TaskLesson:
    cached = recorded(task.taught)[0] if task.taught is not None else None
    return TaskLesson(task.name, task.weight, open_samples(task.samples.folder, task.data), cached)


def recorded(taught: Taught) -> tuple[CachedLogits, nn.Module]:
    """A teacher's cache, checked against the live teacher on a few samples, and that teacher."""
    seen = open_samples(taught.samples.folder, taught.data)
    model = load_teacher(taught.teacher, taught.trained, seen)
    logits = CachedLogits(taught.outputs.folder)
    check_cache(model, logits, seen, taught.data)
    return logits, model
