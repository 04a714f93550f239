"""What the teacher adds: the distilled student beside the same student, epochs and augmentation on labels alone.

The student on labels sees a new view in every epoch (which can only help it) and has its own weight decay: the one of
several that is best on the hold-out split after a shorter schedule. Test accuracies are of the last epoch. Every
training is a stage of the cache: stop it and run it again, and it goes on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from edgekd.cache.stage import Artifact, Cache, default_cache
from edgekd.figures.intervals import wilson_interval
from edgekd.models.accelerator import uses_bf16
from edgekd.models.forward import predict
from edgekd.recipe import ClassifyTask, Distill, Network, load_recipe
from edgekd.runtime.runners import machine, versions
from edgekd.steps.distill import distill
from edgekd.steps.problem import decoded
from edgekd.steps.teach import record
from edgekd.steps.teaching import TaskTeaching, Teaching
from edgekd.steps.trained import Trained
from edgekd.tasks.scores import value_of

EXAMPLE = Path(__file__).parent.parent / "examples" / "cifar10"


def main(
    set_: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
    decay: Annotated[list[float], typer.Option(help="weight decays to try on labels alone")] = [1e-4, 2e-4, 5e-4, 1e-3],  # noqa: B006
    short_epochs: Annotated[int, typer.Option(help="epochs of the runs that choose the weight decay")] = 8,
) -> None:
    """Train what the cache does not hold and print both accuracies."""
    recipe = load_recipe(EXAMPLE, set_).located()
    run = Cache(default_cache())
    data, student = recipe.data, Network.of(recipe.student)
    precision: Literal["bf16", "fp32"] = "bf16" if uses_bf16(recipe.distill.precision) else "fp32"
    settings = recipe.distill.model_copy(update={"precision": precision})
    problem = decoded(run, data, ClassifyTask())
    on, unseen = problem.training, problem.open_test()

    def on_labels(weight_decay: float, epochs: int) -> Artifact:
        optimizer = settings.optimizer.model_copy(update={"weight_decay": weight_decay})
        labels = Distill.model_validate(
            {
                **settings.model_dump(),
                "epochs": epochs,
                "views": epochs,
                "label_weight": 1.0,
                "losses": (),
                "optimizer": optimizer,
            }
        )
        return run(distill, Teaching(labels, (TaskTeaching(on),)), student, None)

    def holdout(trained: Artifact) -> float:
        return float(json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])["holdout"])

    def test(trained: Artifact) -> float:
        model = Trained(student, trained).load(unseen)
        return value_of(unseen.task, predict(model, unseen, np.arange(len(unseen)), [unseen.task])[0], unseen.labels)

    print(
        f"{machine()}; torch {versions()['torch']}; {settings.epochs} epochs, seed {settings.seed}, n {len(unseen)} test images"
    )
    chosen = decay[0]
    if len(decay) > 1:
        tried = {value: holdout(on_labels(value, short_epochs)) for value in decay}
        for value, found in tried.items():
            print(f"labels alone, weight decay {value:g}, {short_epochs} epochs: {found:.2f} % on the hold-out split")
        chosen = max(tried, key=lambda value: tried[value])
    labels = test(on_labels(chosen, settings.epochs))
    task = record(run, tuple(map(Trained, recipe.teachers)), on, settings, TaskTeaching(on))
    distilled = test(run(distill, Teaching(settings, (task,)), student, None))
    for name, found in ((f"labels alone (weight decay {chosen:g})", labels), ("distilled", distilled)):
        low, high = wilson_interval(round(found * len(unseen) / 100), len(unseen))
        print(f"{name:36} {found:6.2f} %  (95 % interval {low:.2f} to {high:.2f})")
    print(f"{'the teacher adds':36} {distilled - labels:6.2f} points")


if __name__ == "__main__":
    typer.run(main)
