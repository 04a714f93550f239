"""The stages that train: a student learns from its teachers; a teacher without weights learns from labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from edgekd.base import processes
from edgekd.cache.stage import stage
from edgekd.distill.cache import CachedLogits
from edgekd.distill.lesson import Lesson, TaskLesson
from edgekd.distill.methods.simkd import SimStudent
from edgekd.distill.objective import TaskObjective
from edgekd.distill.train import save_weights, train
from edgekd.models.adapt import adapt
from edgekd.recipe import Distill, Network, Optimizer
from edgekd.steps.problem import TrainingSet
from edgekd.steps.record import cached_features, check_cache
from edgekd.steps.teaching import RecordedTeacher, TaskTeaching, Teaching
from edgekd.steps.trained import REUSED, WEIGHTS, FirstWeights, new_model, new_student

BATCH = 64  # batch size for a teacher that is trained on labels


@stage(5, ("torch", "accelerate", "numpy"), of="teacher", together=True)
def train_teacher(on: TrainingSet, teacher: Network, epochs: int, *, out: Path) -> None:
    """Stage: train the recipe's teacher on labels for `epochs`."""
    opened = on.open()
    settings = Distill(
        epochs=epochs, batch_size=min(BATCH, len(opened.train_ids)), views=epochs, label_weight=1.0, losses=(),
        optimizer=Optimizer(lr=0.05), precision="fp32",
    )  # fmt: skip
    model = adapt(new_model(teacher, opened, settings.seed), teacher, opened.task)
    trained = train(model, Lesson((TaskLesson(opened),)), settings, out, title="teacher")
    save_weights(trained, out / WEIGHTS)


@stage(9, ("torch", "accelerate", "numpy"), of="student", together=True)
def distill(teaching: Teaching, student: Network, begins_with: FirstWeights | None, *, out: Path) -> None:
    """Stage: train the student; writes `student.safetensors` and `metrics.jsonl`."""
    opened, settings = teaching.samples(), teaching.settings
    model = new_student(student, begins_with, opened, settings.seed)
    trained = train(model, lesson_of(teaching), settings, out)
    if isinstance(trained, SimStudent) and processes.RANK == 0:
        path = next(iter(loss.layers for loss in settings.losses if loss.method == "simkd"))
        about = {"path": next(iter(path)), "size": trained.size, "added_parameters": trained.added_parameters}
        (out / REUSED).write_text(json.dumps(about))
    save_weights(trained, out / WEIGHTS)


def lesson_of(teaching: Teaching) -> Lesson:
    """The lesson for a teaching: opens the caches and checks each against its live teacher on a few samples."""
    objective = TaskObjective(teaching.settings.losses, teaching.settings.label_weight)
    return Lesson(tuple(_task_lesson(task, objective) for task in teaching.tasks))


def _task_lesson(task: TaskTeaching, objective: TaskObjective) -> TaskLesson:
    """The lesson of a task: its labels and caches, and the live teacher if a loss needs it."""
    lesson = TaskLesson(task.on.open(), task.name, task.weight)
    if not objective.needs_teacher or not task.teachers:
        return lesson
    opened = [checked(recorded) for recorded in task.teachers]
    features = cached_features(task.features, objective.pooled_features) if task.features is not None else {}
    live = opened[0][1] if objective.needs_features and not features else None
    seen_as = task.teachers[0].on.open().input
    otherwise = seen_as if seen_as != lesson.samples.input else None
    cached = tuple(logits for logits, _ in opened)
    return replace(lesson, cached=cached, live=live, features=features, teacher_input=otherwise)


def checked(recorded: RecordedTeacher) -> tuple[CachedLogits, nn.Module]:
    """A teacher's cache and the live teacher. The cache is checked against the teacher on a few samples."""
    samples = recorded.on.open()
    model = recorded.teacher.load_teacher(samples)
    logits = CachedLogits(recorded.outputs.folder)
    check_cache(model, logits, samples)
    return logits, model
