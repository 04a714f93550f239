"""`temperature = "auto"`: chosen on the hold-out split by short runs from the teacher's cache."""

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
SHARE = 0.1  # of the recipe's epochs, for each temperature
FILE = "temperature.json"


@stage(7, ("torch", "accelerate", "numpy"), together=True)
def choose_temperature(teaching: Teaching, student: Network, begins_with: FirstWeights | None, *, out: Path) -> None:
    """Stage: the hold-out accuracy of a tenth of the training at each temperature, `temperature.json`; the best is chosen."""
    opened, settings = teaching.samples(), teaching.settings
    epochs = max(1, round(SHARE * settings.epochs))
    curve = {}
    for temperature in TEMPERATURES:
        short = settings.model_copy(
            update={"epochs": epochs, "losses": with_temperature(settings.losses, temperature), "tensorboard": False}
        )
        folder = out / SCRATCH / f"{temperature:g}"
        folder.mkdir(exist_ok=True, parents=True)
        lesson = lesson_of(replace(teaching, settings=short))
        train(
            new_student(student, begins_with, opened, settings.seed), lesson, short, folder, title=f"T {temperature:g}"
        )
        if processes.RANK == 0:  # which alone writes what was measured
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
