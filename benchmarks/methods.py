"""Methods side by side on CIFAR-10: the same student, epochs and augmentation for all, the last epoch, several seeds.

Every training is a stage of the cache: stop it and run it again, and it goes on. The teacher must be a module for the methods
that read its features: --set teacher.model=python:FILE.py:FUNCTION --set teacher.weights=FILE.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgekd.cache.stage import Cache, default_cache
from edgekd.data.batches import examples_of
from edgekd.distill.layers import pair_layers
from edgekd.models import ExportedModel, OnnxModel
from edgekd.models.accelerator import uses_bf16
from edgekd.models.forward import predict
from edgekd.recipe import Distill, Network, Recipe, load_recipe
from edgekd.recipe.schemes import SCHEMES
from edgekd.runtime.runners import machine, versions
from edgekd.steps.distill import distill
from edgekd.steps.problem import Problem, TrainingSet, decoded
from edgekd.steps.teach import record
from edgekd.steps.teaching import TaskTeaching, Teaching
from edgekd.steps.trained import Trained, new_model
from edgekd.tasks.scores import value_of

EXAMPLE = Path(__file__).parent.parent / "examples" / "cifar10"
KD = {"method": "kd", "weight": 0.9}


def also(method: str, weight: float, **options: Any) -> Mapping[str, Any]:
    """A feature method beside `kd`, as in the methods' own comparisons."""
    return {"losses": [KD, {"method": method, "weight": weight, "layers": "auto", **options}]}


# What each changes in the table [distill]; weights as in docs/distillation.md, warm-ups as shares of the training.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "hard labels": {"label_weight": 1.0, "losses": []},
    "kd": {"losses": [KD]},
    "kd + standardize": {"losses": [{"method": "kd", "temperature": 2.0, "standardize": True, "weight": 9.0}]},
    "dkd": {"label_weight": 1.0, "losses": [{"method": "dkd", "warmup_epochs": 1 / 6}]},
    "dist": {"label_weight": 1.0, "losses": [{"method": "dist", "weight": 2.0}]},
    "dml": SCHEMES["dml"],
    "born_again": {"losses": [KD], **SCHEMES["born_again"]},
    "crd + kd": also("crd", 0.8),
    "at + kd": also("at", 1000.0),
    "fitnet + kd": also("fitnet", 100.0),
    "reviewkd + kd": also("reviewkd", 1.0, warmup_epochs=1 / 6),
}


def main(
    set_: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
    epochs: int = 12,
    seeds: int = 2,
    students: str = "edgekd:resnet8,edgekd:resnet20",
    methods: Annotated[str, typer.Option(help="names, separated by commas; empty: all")] = "",
) -> None:
    """Train what the cache does not hold and print a table for each student, best first."""
    recipe = load_recipe(EXAMPLE, [*set_, f"distill.epochs={epochs}"]).located()
    run = Cache(default_cache())
    problem = decoded(run, recipe.data, recipe.task)
    test = problem.open_test()
    teacher = Trained(recipe.teachers[0]).load_teacher(test)
    by_teacher = value_of(test.task, predict(teacher, test, np.arange(len(test)), [test.task])[0], test.labels)
    chosen = methods.split(",") if methods else list(METHODS)
    for name in students.split(","):
        student = Network(model=name)
        rows = {}
        for method in chosen:
            if isinstance(teacher, OnnxModel | ExportedModel) and "auto" in str(METHODS[method]):
                print(f"{method}: left out, the teacher has no layers")
                continue
            started = time.time()
            found = [trained(run, recipe, problem, student, METHODS[method], seed) for seed in range(seeds)]
            rows[method] = found, time.time() - started
        about = (
            f"{machine()}; torch {versions()['torch']}; {epochs} epochs, {recipe.distill.views} views, {seeds} seeds"
        )
        print(f"\n{name} from a teacher of {by_teacher:.2f} %, {len(test)} test images, last epoch; {about}\n")
        print("| method | top-1, % | sd | minutes (0: from the cache) |\n|---|---|---|---|")
        for method, (found, seconds) in sorted(rows.items(), key=lambda row: -statistics.mean(row[1][0])):
            sd = f"{statistics.stdev(found):.2f}" if len(found) > 1 else "-"
            print(f"| {method} | {statistics.mean(found):.2f} | {sd} | {seconds / 60:.1f} |")


def trained(
    run: Cache,
    recipe: Recipe,
    problem: Problem,
    student: Network,
    method: Mapping[str, Any],
    seed: int,
) -> float:
    """The test accuracy of one training."""
    precision = "bf16" if uses_bf16(recipe.distill.precision) else "fp32"
    epochs = recipe.distill.epochs
    given = {
        **recipe.distill.model_dump(),
        **method,
        "seed": seed,
        "precision": precision,
        "warmup_epochs": epochs / 12,
    }
    given["losses"] = [{**loss, "warmup_epochs": loss.get("warmup_epochs", 0.0) * epochs} for loss in given["losses"]]
    if not given["losses"] and given["label_weight"] == 1.0:
        given["views"] = epochs  # labels need no teacher: a new view in every epoch, which can only help them
    settings = Distill.model_validate(given)
    on, samples = problem.training, problem.open()
    losses = pair_layers(
        settings.losses,
        new_model(student, samples, 0),
        new_model(recipe.teachers[0], samples, 0),
        examples_of(samples, 2),
    )
    generations = settings.generations
    settings = settings.model_copy(update={"losses": losses, "generations": 0})
    made = run(distill, _taught(run, tuple(map(Trained, recipe.teachers)), on, settings), student, None)
    for _ in range(generations):
        recorded = _taught(run, (Trained(student, made),), on, settings)
        settings = settings.model_copy(update={"seed": settings.seed + 1000})  # none of another run's
        made = run(distill, replace(recorded, settings=settings), student, None)
    test = problem.open_test()
    return value_of(
        test.task, predict(Trained(student, made).load(test), test, np.arange(len(test)), [test.task])[0], test.labels
    )


def _taught(run: Cache, teachers: tuple[Trained, ...], on: TrainingSet, settings: Distill) -> Teaching:
    return Teaching(settings, (record(run, teachers, on, settings, TaskTeaching(on)),))


if __name__ == "__main__":
    typer.run(main)
