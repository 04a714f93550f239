"""teach: records the teachers, chooses the temperature, and trains the models between teachers and student."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from edgekd.base.console import say
from edgekd.cache.stage import Artifact, Cache
from edgekd.distill.objective import TaskObjective
from edgekd.distill.own import method_of
from edgekd.recipe import Distill, Network, Recipe, Recording
from edgekd.recipe.losses import is_auto, reads_teacher, title_of, with_temperature
from edgekd.steps.distill import distill, train_teacher
from edgekd.steps.problem import Problem, Problems, TrainingSet
from edgekd.steps.record import record_features, record_teacher, score_teacher
from edgekd.steps.teaching import RecordedTeacher, TaskTeaching, Teaching
from edgekd.steps.temperature import FILE, choose_temperature
from edgekd.steps.trained import FirstWeights, Trained


@dataclass(frozen=True)
class Instruction:
    """The student's teachers and settings, with further results for the report.

    temperature: the temperatures that were tried; chain: the models trained between the teachers and the student; scores,
    task_scores: logits on the test split of the first teacher, and of the teacher of each further task.
    """

    teachers: tuple[Trained, ...]
    teaching: Teaching
    begins_with: FirstWeights | None
    temperature: Artifact | None
    chain: tuple[Artifact, ...]
    scores: Artifact | None
    task_scores: Mapping[str, Artifact]


def teachers_of(run: Cache, recipe: Recipe, problem: Problem) -> tuple[Trained, ...]:
    """The recipe's teachers. The main teacher is trained on labels first if the recipe asks for that."""
    if recipe.teacher is None or not recipe.teacher.train_epochs:
        return tuple(map(Trained, recipe.teachers))
    first, *others = recipe.teachers
    weights = run(train_teacher, problem.training, first, recipe.teacher.train_epochs)
    return Trained(first, weights), *map(Trained, others)


def teach(
    run: Cache, recipe: Recipe, problems: Problems, teachers: tuple[Trained, ...], student: Network, settings: Distill
) -> Instruction:
    """Record the teachers, choose what "auto" leaves open, and train the assistants and generations before the student."""
    on = problems.student.training
    # None without student.init, so that the teacher's weights enter the student's key only if the student starts from them.
    begins_with = first_weights(recipe, teachers)
    own = record(run, teachers, problems.teacher.training, settings, TaskTeaching(on))
    teaching = Teaching(settings, (own, *record_tasks(run, recipe, problems.tasks, settings)))
    scores, task_scores = score_teachers(run, recipe, problems, teachers)
    temperature = None
    if is_auto(settings.losses):
        temperature = run(choose_temperature, teaching, student, begins_with)
        best = json.loads((temperature / FILE).read_text())["best"]
        teaching = _with(teaching, losses=with_temperature(settings.losses, best))
    chain = []  # teacher (or labels alone) -> assistants -> student -> the student again
    learns = teaching if teachers or not recipe.distill.generations else without_teacher(teaching)
    for network in (*map(Network.of, recipe.student.assistants), *[student] * recipe.distill.generations):
        chain.append(run(distill, learns, network, begins_with))
        # Each link starts from newly drawn weights (born-again networks, Furlanello et al. 2018).
        recorded = record(run, (Trained(network, chain[-1]),), on, teaching.settings, TaskTeaching(on))
        learns = teaching = _with(Teaching(teaching.settings, (recorded,)), seed=teaching.settings.seed + 1)
    return Instruction(teachers, teaching, begins_with, temperature, tuple(chain), scores, task_scores)


def score_teachers(
    run: Cache, recipe: Recipe, problems: Problems, teachers: tuple[Trained, ...]
) -> tuple[Artifact | None, dict[str, Artifact]]:
    """The logits on the test split of the first teacher, and of the teacher of each further task."""
    first = run(score_teacher, teachers[0], problems.teacher.evaluation) if teachers else None
    further = {}
    for task in recipe.tasks:
        on = problems.tasks[task.name].evaluation
        further[task.name] = run(score_teacher, Trained(Network.of(task.teacher)), on)
    return first, further


def first_weights(recipe: Recipe, teachers: tuple[Trained, ...]) -> FirstWeights | None:
    """The student's first weights, if the recipe has `student.init`: those of the teacher or of `init.source`."""
    init = recipe.student.init
    if init is None:
        return None
    return FirstWeights(init, teachers[0] if init.source is None else Trained(Network.of(init.source)))


def record(
    run: Cache, teachers: tuple[Trained, ...], on: TrainingSet, settings: Distill, task: TaskTeaching
) -> TaskTeaching:
    """The task with recorded logits and features of the teachers, as its losses read them. on: the teachers' samples."""
    objective = TaskObjective(with_temperature(settings.losses, 1.0), settings.label_weight)
    if not objective.needs_teacher or not teachers:
        return task
    bf16 = settings.precision == "bf16"
    recording = Recording(
        views=settings.views, format=settings.cache, top_k=settings.top_k if settings.cache == "topk" else 0, bf16=bf16
    )
    recorded = tuple(RecordedTeacher(teacher, on, run(record_teacher, teacher, on, recording)) for teacher in teachers)
    layers = objective.pooled_features
    plainly = recording.model_copy(update={"format": "float16", "top_k": 0})  # only logits have other formats
    features = run(record_features, teachers[0], on, plainly, layers) if layers else None
    return replace(task, teachers=recorded, features=features)


def record_tasks(
    run: Cache, recipe: Recipe, problems: Mapping[str, Problem], settings: Distill
) -> Iterator[TaskTeaching]:
    """The tasks of [[tasks]], each with its own teacher."""
    for task in recipe.tasks:
        on = problems[task.name].training
        yield record(run, (Trained(Network.of(task.teacher)),), on, settings, TaskTeaching(on, task.name, task.weight))


def without_teacher(teaching: Teaching) -> Teaching:
    """The teaching for the first generation of a self-taught student: labels, and losses that read no teacher."""
    losses = [loss for loss in teaching.settings.losses if loss.weight]
    going = tuple(loss for loss in losses if not reads_teacher(method_of(loss.method)))
    if len(going) < len(losses):
        say(
            f"  there is no teacher yet: it learns from {', '.join(['labels', *(title_of(loss.method) for loss in going)])}"
        )
    return _with(teaching, losses=going, label_weight=1.0)


def _with(teaching: Teaching, **changes: object) -> Teaching:
    return replace(teaching, settings=teaching.settings.model_copy(update=changes))
