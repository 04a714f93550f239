"""The stages that train: the student from its teachers, and a teacher from labels where it has no weights yet."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from edgekd.base import processes
from edgekd.cache.stage import stage
from edgekd.data import Samples
from edgekd.distill.cache import CachedLogits
from edgekd.distill.methods.simkd import SimStudent
from edgekd.distill.objective import Objective
from edgekd.distill.train import Lesson, TaskLesson, save_weights, train
from edgekd.models.adapt import adapt
from edgekd.recipe import Data, Distill, Network, Optimizer
from edgekd.steps.problem import TrainingSet
from edgekd.steps.record import cached_features, check_cache
from edgekd.steps.teaching import RecordedTeacher, TaskTeaching, Teaching
from edgekd.steps.trained import REUSED, WEIGHTS, FirstWeights, new_model, new_student

BATCH = 64  # of a teacher that is trained on labels


@stage(3, ("torch", "accelerate", "numpy"), together=True)
def train_teacher(on: TrainingSet, teacher: Network, epochs: int, *, out: Path) -> None:
    """Stage: train the recipe's teacher on labels for `epochs`."""
    opened = on.open()
    settings = Distill(
        epochs=epochs, batch_size=min(BATCH, len(opened.train_ids)), views=epochs, label_weight=1.0, losses=(),
        optimizer=Optimizer(lr=0.05), precision="fp32",
    )  # fmt: skip
    model = adapt(new_model(teacher, opened, settings.seed), teacher, opened.classes)
    trained = train(model, Lesson(opened, on.data, None, None), settings, out, title="teacher")
    save_weights(trained, out / WEIGHTS)


@stage(7, ("torch", "accelerate", "numpy"), together=True)
def distill(
    on: TrainingSet, teaching: Teaching, student: Network, begins_with: FirstWeights | None, *, out: Path
) -> None:
    """Stage: train the student; writes `student.safetensors` and `metrics.jsonl`."""
    opened, settings = on.open(), teaching.settings
    model = new_student(student, begins_with, opened, settings.seed)
    trained = train(model, lesson_of(opened, on.data, teaching), settings, out)
    if isinstance(trained, SimStudent) and processes.RANK == 0:
        path = next(iter(loss.layers for loss in settings.losses if loss.method == "simkd"))
        about = {"path": next(iter(path)), "size": trained.size, "added_parameters": trained.added_parameters}
        (out / REUSED).write_text(json.dumps(about))
    save_weights(trained, out / WEIGHTS)


def lesson_of(samples: Samples, data: Data, teaching: Teaching) -> Lesson:
    """The caches, each checked against its live teacher on a few samples; the live teacher too where a loss needs it."""
    objective = Objective(teaching.settings.losses, teaching.settings.label_weight)
    tasks = tuple(map(_task_lesson, teaching.tasks))
    if not objective.needs_teacher:
        return Lesson(samples, data, None, None, tasks=tasks)
    cached, live = [], None
    for recorded in teaching.teachers:
        logits, model = checked(recorded)
        cached.append(logits)
        live = live or model
    features = cached_features(teaching.features, objective.pooled_features) if teaching.features is not None else {}
    needs_live = objective.needs_features and not features
    seen_as = teaching.teachers[0].on.data
    otherwise = seen_as if (seen_as.mean, seen_as.std) != (data.mean, data.std) else None
    return Lesson(samples, data, cached[0], live if needs_live else None, features, tuple(cached[1:]), otherwise, tasks)


def _task_lesson(task: TaskTeaching) -> TaskLesson:
    cached = checked(task.recorded)[0] if task.recorded is not None else None
    return TaskLesson(task.name, task.weight, task.on.open(), cached)


def checked(recorded: RecordedTeacher) -> tuple[CachedLogits, nn.Module]:
    """A teacher's cache, checked against the live teacher on a few samples, and that teacher."""
    samples = recorded.on.open()
    model = recorded.teacher.load_teacher(samples)
    logits = CachedLogits(recorded.outputs.folder)
    check_cache(model, logits, samples, recorded.on.data)
    return logits, model
