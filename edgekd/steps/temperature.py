"""`temperature = "auto"`: chooses a temperature on the hold-out split, by short runs from the teacher's cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from edgekd.base import processes
from edgekd.base.console import say
from edgekd.cache.stage import SCRATCH, stage
from edgekd.distill.train import train
from edgekd.recipe import Network
from edgekd.recipe.losses import with_temperature
from edgekd.steps.distill import lesson_of
from edgekd.steps.teaching import Teaching
from edgekd.steps.trained import FirstWeights, new_student

TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
SHARE = 0.1  # each temperature gets this share of the recipe's epochs
FILE = "temperature.json"


@stage(7, ("torch", "accelerate", "numpy"), of="student", together=True)
def choose_temperature(teaching: Teaching, student: Network, begins_with: FirstWeights | None, *, out: Path) -> None:
    """Stage: train for a tenth of the epochs at each temperature, and choose the best on the hold-out split.

    Writes `temperature.json`.
    """
    opened, settings = teaching.samples(), teaching.settings
    epochs = max(1, round(SHARE * settings.epochs))
    curve = {}
    for temperature in TEMPERATURES:
        short = settings.model_copy(
            update={
                "epochs": epochs,
                "losses": with_temperature(settings.losses, temperature),
                "tensorboard": False,
                "keep": "last",
                "patience": None,
            }
        )
        folder = out / SCRATCH / f"{temperature:g}"
        folder.mkdir(exist_ok=True, parents=True)
        lesson = lesson_of(replace(teaching, settings=short))
        train(
            new_student(student, begins_with, opened, settings.seed), lesson, short, folder, title=f"T {temperature:g}"
        )
        if processes.RANK == 0:  # only this process writes the figures
            last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
            curve[temperature] = float(last["holdout"])
    if processes.RANK > 0:
        return
    sign = opened.task.metric.sign
    best = max(curve, key=lambda temperature: sign * curve[temperature])
    say(
        f"  temperature {best:g}, the best of {len(curve)} on the hold-out split after {epochs} {'epoch' if epochs == 1 else 'epochs'} each"
    )
    (out / FILE).write_text(json.dumps({"best": best, "epochs": epochs, "curve": list(curve.items())}))
