"""`temperature = "auto"`: chosen on the hold-out split by short runs from the teacher's cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgekd.base import processes
from edgekd.base.console import say
from edgekd.cache.stage import SCRATCH, Artifact, stage
from edgekd.data import open_samples
from edgekd.distill.train import train
from edgekd.recipe import Data, Distill, Student
from edgekd.recipe.losses import Loss
from edgekd.steps.distill import Beginning, Lessons, lesson_of, new_student

TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
SHARE = 0.1  # of the recipe's epochs, for each temperature
FILE = "temperature.json"


def is_auto(losses: Sequence[Loss]) -> bool:
    """Some loss leaves its temperature to the hold-out split."""
    return any(loss.options.get("temperature") == "auto" for loss in losses)


def with_temperature(losses: Sequence[Loss], temperature: float) -> tuple[Loss, ...]:
    """The losses, each "auto" replaced."""
    return tuple(
        Loss(**{**loss.model_dump(), "temperature": temperature}) if is_auto([loss]) else loss for loss in losses
    )


@stage(4, ("torch", "accelerate", "numpy"), together=True)
def choose_temperature(
    samples: Artifact,
    taught_by: Lessons,
    student: Student,
    first: Beginning | None,
    data: Data,
    settings: Distill,
    *,
    out: Path,
) -> None:
    """Stage: the hold-out accuracy of a tenth of the training at each temperature, `temperature.json`; the best is chosen."""
    opened = open_samples(samples.folder, data)
    epochs = max(1, round(SHARE * settings.epochs))
    curve = {}
    for temperature in TEMPERATURES:
        short = settings.model_copy(
            update={"epochs": epochs, "losses": with_temperature(settings.losses, temperature), "tensorboard": False}
        )
        folder = out / SCRATCH / f"{temperature:g}"
        folder.mkdir(exist_ok=True, parents=True)
        lesson = lesson_of(opened, data, taught_by, short)
        train(new_student(student, first, opened, settings.seed), lesson, short, folder, title=f"T {temperature:g}")
        if processes.RANK == 0:  # which alone writes what was measured
            last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
            curve[temperature] = float(last["holdout_top1"])
    if processes.RANK > 0:
        return
    best = max(curve, key=lambda temperature: curve[temperature])
    say(
        f"  temperature {best:g}, the best of {len(curve)} on the hold-out split after {epochs} {'epoch' if epochs == 1 else 'epochs'} each"
    )
    (out / FILE).write_text(json.dumps({"best": best, "epochs": epochs, "curve": list(curve.items())}))
