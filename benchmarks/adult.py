"""What trees teach a small MLP of adult: LightGBM's probabilities beside labels alone, the same student, epochs and views.

The trees are trained on the training rows, without those that are held out. Figures are of the test split, computed by
onnxruntime from the exported files. Needs `pip install lightgbm`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import adult_trees
import numpy as np
import numpy.typing as npt
import typer
from scipy.stats import rankdata

from edgekd.cache.stage import Cache
from edgekd.models import CalledModel
from edgekd.recipe import Distill, Network, Recipe, load_recipe
from edgekd.runtime.runners import machine, versions
from edgekd.steps.candidates import export_candidates
from edgekd.steps.distill import distill
from edgekd.steps.export import Form
from edgekd.steps.problem import Problem, problems_of
from edgekd.steps.record import score_teacher
from edgekd.steps.teach import record
from edgekd.steps.teaching import TaskTeaching, Teaching
from edgekd.steps.trained import Trained, new_model
from edgekd.target import load_target

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "table"
SETTINGS = [
    "data.augment.swap=0.15", "distill.epochs=80", "distill.views=16", "distill.optimizer.lr=0.004",
    'distill.losses=[{method="kd", weight=1.0, temperature=1}]', "distill.label_weight=0.0",
]  # fmt: skip
Scores = npt.NDArray[np.float32]


def auc(logits: Scores, labels: npt.NDArray[np.int64]) -> float:
    """The area under the ROC curve in percent: how often a row of class 1 has a higher score than one of class 0."""
    score = logits[:, 1].astype(np.float64) - logits[:, 0]
    ranks, positive = rankdata(score), labels == 1
    n = int(positive.sum())
    return 100 * float(ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(labels) - n))


def accuracy(logits: Scores, labels: npt.NDArray[np.int64]) -> float:
    return 100 * float((logits.argmax(1) == labels).mean())


def grow(problem: Problem, folder: Path, rounds: int) -> None:
    """Train the trees on the training rows, and write the teacher into `folder`."""
    samples = problem.open()
    raw, labels = samples.train.get(samples.train_ids), samples.train.labels[samples.train_ids]
    reader = CalledModel(lambda table: 0, samples.input.columns, "adult")  # type: ignore[attr-defined]
    table = reader.table(*(raw[field.name] for field in samples.input.fields))
    folder.mkdir(parents=True, exist_ok=True)
    adult_trees.fit(table, labels, rounds, folder)
    shutil.copy(HERE / "adult_trees.py", folder / "adult_trees.py")


def exported(run: Cache, recipe: Recipe, problem: Problem, task: TaskTeaching, settings: Distill) -> dict[str, Scores]:
    """The logits of a trained student's candidates on the test split."""
    teaching, target = Teaching(settings, (task,)), load_target("x86-cpu")
    student = Network.of(recipe.student)
    trained = Trained(student, run(distill, teaching, student, None))
    form = Form(recipe.export, target.runtime.default_opset)
    found = export_candidates(run, recipe, target, problem, trained, teaching, form)
    return {name: np.load(scores / "test.npy") for name, scores in found.scores.items()}


def main(
    train: Annotated[str, typer.Option(help="adult's training rows")],
    test: Annotated[str, typer.Option(help="adult's test rows")],
    folder: Annotated[Path, typer.Option(help="where teacher and cache go")] = Path("build/adult"),
    rounds: Annotated[int, typer.Option(help="trees of the teacher")] = 300,
    seeds: Annotated[int, typer.Option(help="students of each kind")] = 3,
    set_: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
) -> None:
    """Train what the cache does not hold, and print both figures of teacher and students."""
    folder = folder.absolute()
    named = [f"data.train={train}", f"data.test={test}"]
    teacher = f"teacher={{model='python:{folder}/adult_trees.py:make', outputs='probabilities', raw=true}}"
    run = Cache(folder / "cache")
    grow(problems_of(run, load_recipe(EXAMPLE, named).located()).student, folder, rounds)
    recipe = load_recipe(EXAMPLE, [*named, teacher, *SETTINGS, *set_]).located()
    problems = problems_of(run, recipe)
    problem, unseen = problems.student, problems.student.open_test()
    trees = Trained(recipe.teachers[0])
    teaches = np.load(run(score_teacher, trees, problems.teacher.evaluation) / "test.npy")
    on = problem.training
    parameters = sum(each.numel() for each in new_model(Network.of(recipe.student), problem.open(), 0).parameters())
    rows: dict[str, list[Scores]] = {}
    for seed in range(seeds):
        settings = recipe.distill.model_copy(update={"seed": seed, "precision": "fp32"})
        labels = settings.model_copy(update={"losses": (), "label_weight": 1.0})
        taught = record(run, (trees,), problems.teacher.training, settings, TaskTeaching(on))
        for name, task, learns in (("labels alone", TaskTeaching(on), labels), ("distilled", taught, settings)):
            for precision, logits in exported(run, recipe, problem, task, learns).items():
                rows.setdefault(f"{name}, {precision}", []).append(logits)
    print(
        f"{machine()}; {versions()}; {recipe.distill.epochs} epochs, {parameters:,} parameters, {seeds} seeds, n {len(unseen)}"
    )
    print_table(teaches, rows, unseen.labels)


def print_table(teaches: Scores, rows: dict[str, list[Scores]], labels: npt.NDArray[np.int64]) -> None:
    """Both figures, mean and range over the seeds, and the share of the gap to the teacher that distilling closes."""
    print("| model | AUC, % | accuracy, % |")
    print("|---|---|---|")
    print(f"| teacher | {auc(teaches, labels):.2f} | {accuracy(teaches, labels):.2f} |")
    means: dict[str, list[float]] = {}
    for name, found in rows.items():
        told = []
        for figure in (auc, accuracy):
            values = [figure(logits, labels) for logits in found]
            means.setdefault(name, []).append(float(np.mean(values)))
            told.append(f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        print(f"| {name} | {' | '.join(told)} |")
    for at, (title, best) in enumerate((("AUC", auc(teaches, labels)), ("accuracy", accuracy(teaches, labels)))):
        for precision in ("fp32", "int8"):
            alone, taught = means[f"labels alone, {precision}"][at], means[f"distilled, {precision}"][at]
            print(f"gap in {title} closed, {precision}: {100 * (taught - alone) / (best - alone):.0f} %")


if __name__ == "__main__":
    typer.run(main)
