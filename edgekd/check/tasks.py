"""Checks of several tasks: the student has a head for each task, and each head a teacher (system-level distillation).

A task's samples are the images of [data] with another column of labels. The student's last layer gives the classes of all
tasks side by side; in the exported graph each task is a separate output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import nn

from edgekd.cache.stage import Artifact
from edgekd.check.teachers import checked_teacher
from edgekd.data import Samples
from edgekd.data.batches import examples_of
from edgekd.data.sources import check_classes
from edgekd.distill.methods import METHODS
from edgekd.distill.own import method_of
from edgekd.errors import ModelError, RecipeError
from edgekd.figures.candidate import Check
from edgekd.figures.words import valued
from edgekd.models.reference import answer_of
from edgekd.recipe import Network, Recipe
from edgekd.steps.problem import Problem, Problems
from edgekd.tasks.scores import value_of


def with_heads(recipe: Recipe, problems: Problems) -> Network:
    """The student's network with a head for each task."""
    return Network.of(recipe.student, {name: task.open().task.shape for name, task in problems.tasks.items()})


def check_tasks(recipe: Recipe, problems: Problems) -> None:
    """Raise RecipeError or ModelError if tasks, labels and teachers do not fit each other."""
    first, tested = problems.student.open(), problems.student.open_test()
    for n, task in enumerate(recipe.tasks):
        problem = problems.tasks[task.name]
        opened = problem.open()
        if len(opened.train) != len(first.train) or len(problem.open_test()) != len(tested):
            raise RecipeError(f"task {task.name}: column '{task.label}' labels other rows than the first task's")
        if opened.task.strata(opened.train.labels) is not None:
            check_classes(opened.train.labels, opened.classes, f"task {task.name}: column '{task.label}' of data.train")
        _, classes = checked_teacher(Network.of(task.teacher), f"tasks.{n}.teacher", opened)
        if classes != len(opened.classes):
            raise ModelError(
                f"task {task.name}: its teacher gives {classes} classes, column '{task.label}' has {len(opened.classes)} "
                f"({', '.join(opened.classes[:10])})"
            )


def check_heads(student: nn.Module, network: Network, samples: Samples) -> None:
    """Raise ModelError if the student gives other tensors than one for each task, in their order."""
    outputs = answer_of(student, examples_of(samples, 2), "the student", "", samples.input.noun)
    wanted = {"the first task": samples.task.shape, **network.heads}
    told = ", ".join(f"{name} {['batch', *shape]}".replace("'", "") for name, shape in wanted.items())
    given = [list(each.shape[1:]) for each in outputs] if isinstance(outputs, tuple) else type(outputs).__name__
    if given != [list(shape) for shape in wanted.values()]:
        raise ModelError(f"the student must return a tuple with a tensor for each task: {told}; it returned {given}")


def mistakes_in_tasks(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The settings that cannot be combined with [[tasks]]: place in the recipe, and reason."""
    if not recipe.tasks:
        return
    names = [task.name for task in recipe.tasks]
    if len({*names, recipe.export.output, "input"}) < len(names) + 2:
        yield (
            "tasks",
            f"names {', '.join(names)}; each names an output, so they differ from each other, '{recipe.export.output}' and 'input'",
        )
    for n, loss in enumerate(recipe.distill.losses):
        method = method_of(loss.method)
        if not method.reads_logits_alone or method.pairs:
            possible = [name for name, of in METHODS.items() if of.reads_logits_alone and not of.pairs]
            why = f"{loss.method} reads more than the logits of one head; with tasks take {', '.join(possible)}"
            yield f"distill.losses.{n}.method", why
    for name, given in (
        ("student.assistants", recipe.student.assistants),
        ("distill.generations", recipe.distill.generations),
        ("data.train", recipe.data.is_synthetic),
    ):
        if given:
            yield name, "not together with [[tasks]]: what stands between the teachers and the student has one head"


def task_notes(problems: Mapping[str, Problem], teachers: Mapping[str, Artifact], scores: Artifact) -> Iterator[Check]:
    """A note for each further task with the score of the model that ships and of that task's teacher."""
    for name, problem in problems.items():
        test = problem.open_test()
        task, labels = test.task, test.labels
        ours, theirs = np.load(scores / f"test.{name}.npy"), np.load(teachers[name] / "test.npy")
        student, teacher = (valued(value_of(task, stored, labels), task.metric.unit) for stored in (ours, theirs))
        found = f"{task.metric.name} {student} of {len(labels)} test samples (its teacher {teacher})"
        yield Check(name=f"task {name}", verdict="note", found=found)
