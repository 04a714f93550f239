"""quantize_student: the stages that `quantize.mode` asks for."""

from __future__ import annotations

from edgekd.distill.student import Lessons
from edgekd.quantize.student import Plan, Subject, quantize, record_activations, train_quantized
from edgekd.recipe import Distill, Quantize
from edgekd.stage import Artifact, Cache


def quantize_student(
    run: Cache, subject: Subject, recipe: Quantize, taught_by: Lessons, settings: Distill
) -> tuple[Artifact, Plan]:
    """The quantized student and how it was quantized."""
    statistics = run(record_activations, subject)
    plan = Plan(recipe.calibration, trained=recipe.mode == "qat")
    if plan.trained:
        return run(train_quantized, subject, statistics, plan, taught_by, settings, recipe.training), plan
    return run(quantize, subject, statistics, plan), plan
