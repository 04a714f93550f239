"""A recipe's student from labels alone and from each of several losses: the same epochs and views, the last epoch, several seeds.

    python benchmarks/distilled.py examples/segment --set data.train=... --trial 'kd={losses=[{method="kd"}]}'

A trial changes the recipe's table [distill]. Every figure is of the test split, computed by onnxruntime from the exported files.
Labels alone see a new view in every epoch, which can only help them. Every training is a stage of the cache: stop it and run it
again, and it goes on.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgekd.cache.stage import Cache, default_cache
from edgekd.data.batches import examples_of
from edgekd.distill.layers import pair_layers
from edgekd.figures.metric import Judged, bootstrap, drop_of
from edgekd.models.accelerator import uses_bf16
from edgekd.recipe import Distill, Network, Recipe, load_recipe
from edgekd.runtime.runners import machine, versions
from edgekd.steps.candidates import export_candidates
from edgekd.steps.distill import distill
from edgekd.steps.export import Form
from edgekd.steps.problem import Problems, problems_of
from edgekd.steps.record import score_teacher
from edgekd.steps.teach import record, teachers_of
from edgekd.steps.teaching import TaskTeaching, Teaching
from edgekd.steps.trained import Trained, new_model
from edgekd.target import Target, load_target

LABELS: Mapping[str, Any] = {"losses": [], "label_weight": 1.0}
Found = dict[str, dict[str, list[Judged]]]
"""Trial -> precision -> each seed's judged test samples."""


def main(
    recipe: str,
    trial: Annotated[list[str], typer.Option(help="NAME={a table as [distill]}; may be given several times")] = [],  # noqa: B006
    set_: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
    seeds: int = 3,
    target: str = "x86-cpu",
) -> None:
    """Train what the cache does not hold, and print a line for each trial and precision."""
    asked = load_recipe(Path(recipe), set_).located().canonical()
    run, on = Cache(default_cache()), load_target(target)
    problems = problems_of(run, asked)
    teachers = teachers_of(run, asked, problems.teacher)
    trials = {"labels alone": LABELS, **dict(map(named, trial or [f"recipe={{losses={losses_of(asked)}}}"]))}
    found: Found = {}
    for name, changes in trials.items():
        for seed in range(seeds):
            for precision, judged in students(run, asked, on, problems, teachers, changes, seed).items():
                found.setdefault(name, {}).setdefault(precision, []).append(judged)
        show(asked, problems, name, found)
    unseen = problems.student.open_test()
    stored = np.load(run(score_teacher, teachers[0], problems.teacher.evaluation) / "test.npy")
    teacher = unseen.task.metric.value(unseen.task.judge(unseen.task.answered(stored), unseen.labels))
    student = new_model(Network.of(asked.student), problems.student.open(), 0)
    print(
        f"\nteacher {teacher:.2f} {unseen.task.metric.unit} {unseen.task.metric.name}; student of "
        f"{sum(each.numel() for each in student.parameters()):,} parameters; {asked.distill.epochs} epochs, "
        f"{asked.distill.views} views, {seeds} seeds, n {len(unseen)}; {machine()}; {versions()}"
    )


def named(trial: str) -> tuple[str, Mapping[str, Any]]:
    name, _, table = trial.partition("=")
    return name, tomllib.loads(f"trial = {table}")["trial"]


def losses_of(recipe: Recipe) -> str:
    return "[" + ", ".join(f'{{method="{loss.method}", weight={loss.weight}}}' for loss in recipe.distill.losses) + "]"


def students(
    run: Cache,
    recipe: Recipe,
    target: Target,
    problems: Problems,
    teachers: tuple[Trained, ...],
    changes: Mapping[str, Any],
    seed: int,
) -> dict[str, Judged]:
    """The judged test samples of a student's candidates, by precision."""
    precision = "bf16" if uses_bf16(recipe.distill.precision) else "fp32"
    given = {**recipe.distill.model_dump(), **changes, "seed": seed, "precision": precision}
    if not given["losses"]:
        given["views"] = recipe.distill.epochs
    settings, student = Distill.model_validate(given), Network.of(recipe.student)
    samples = problems.student.open()
    if any(loss.layers == "auto" for loss in settings.losses):
        networks = (new_model(student, samples, 0), teachers[0].load_teacher(samples))
        paired = pair_layers(settings.losses, *networks, examples_of(samples, 2))
        settings = settings.model_copy(update={"losses": paired})
    task = record(run, teachers, problems.teacher.training, settings, TaskTeaching(problems.student.training))
    teaching = Teaching(settings, (task,))
    trained = Trained(student, run(distill, teaching, student, None))
    form = Form(recipe.export, target.runtime.default_opset)
    asked = replace_seed(recipe, seed)
    exported = export_candidates(run, asked, target, problems.student, trained, teaching, form)
    unseen = problems.student.open_test()
    stored = {name: np.load(scores / "test.npy") for name, scores in exported.scores.items()}
    return {name: unseen.task.judge(unseen.task.answered(each), unseen.labels) for name, each in stored.items()}


def replace_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another seed of the training, which quantization-aware training reads too."""
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"seed": seed})})


def show(recipe: Recipe, problems: Problems, name: str, found: Found) -> None:
    """A line for each precision of a trial: mean, the seeds' range, and what it gains over labels alone, paired."""
    # The means over seeds are no longer right or wrong, so that the bootstrap over samples gives every interval.
    metric = replace(problems.student.open_test().task.metric, interval=None, paired=None)
    if len(found) == 1:
        print(
            f"| trial | {metric.name}, {metric.unit} (seeds; 95 % of the mean's samples) | beside labels alone | int8 beside fp32 |"
        )
        print("|---|---|---|---|")
    for precision, seeds in found[name].items():
        values, mean = [metric.value(judged) for judged in seeds], np.mean(seeds, axis=0)
        low, high = bootstrap(metric, mean)
        gain = "" if name == "labels alone" else beside(np.mean(found["labels alone"][precision], axis=0), mean, metric)
        lost = beside(np.mean(found[name]["fp32"], axis=0), mean, metric) if precision != "fp32" else ""
        spread = f"{min(values):.2f} to {max(values):.2f}; {low:.2f} to {high:.2f}"
        print(f"| {name}, {precision} | {np.mean(values):.2f} ({spread}) | {gain} | {lost} |", flush=True)


def beside(reference: Judged, judged: Judged, metric: Any) -> str:
    drop = drop_of(metric, reference, judged)
    return f"{-drop.value:+.2f} ({-drop.high:+.2f} to {-drop.low:+.2f})"


if __name__ == "__main__":
    typer.run(main)
