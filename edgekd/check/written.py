"""Rows of the report from the files of stages: sizes, temperatures, ways to quantize, sensitivities of layers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import safetensors

from edgekd.cache.stage import Artifact
from edgekd.figures.figures import LayerSensitivity, QuantizationStep
from edgekd.recipe import Recipe, file_of
from edgekd.steps.ladder import Quantized
from edgekd.steps.temperature import FILE


def teacher_size_mb(recipe: Recipe) -> float | None:
    """The size of the teacher's file of weights or model, in MB; None if the teacher has no such file."""
    if recipe.teacher is None:
        return None
    file = file_of(recipe.teacher.weights or recipe.teacher.model)
    return round(file.stat().st_size / 1e6, 3) if file is not None and file.is_file() and file.suffix != ".py" else None


def parameters(weights: Path) -> int:
    """The number of the student's learnt numbers, without the statistics of its BatchNorms."""
    with safetensors.safe_open(weights, "np") as file:
        names = file.keys()
        learnt = [name for name in names if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
        return sum(math.prod(file.get_slice(name).get_shape()) for name in learnt)


def temperatures(tuned: Artifact | None) -> tuple[tuple[float, float], ...]:
    """The temperatures that "auto" tried, each with its figure on the hold-out split."""
    return () if tuned is None else tuple(json.loads((tuned / FILE).read_text())["curve"])


def path(quantized: Quantized | None) -> tuple[QuantizationStep, ...]:
    """The rungs that "auto" tried, with a mark at the rung taken; empty if nothing had to be decided."""
    if quantized is None:
        return ()
    return tuple(
        QuantizationStep(
            name=rung.name, in_float=rung.plan.in_float, holdout=rung.value, drop=rung.drop, holds=bool(rung.holds),
            taken=rung is quantized.taken, seconds=round(rung.quantized.seconds, 1),
        )
        for rung in quantized.tried
        if rung.value is not None and rung.drop is not None
    )  # fmt: skip


def sensitivity(quantized: Quantized | None) -> tuple[LayerSensitivity, ...]:
    """The cost of quantizing each layer alone, if it was measured."""
    if quantized is None:
        return ()
    total = sum(layer.multiplications for layer in quantized.sensitivities)
    kept = quantized.taken.plan.in_float
    return tuple(
        LayerSensitivity(
            layer=layer.layer, divergence=layer.divergence, share=round(100 * layer.multiplications / total, 2),
            in_float=layer.layer in kept,
        )
        for layer in quantized.sensitivities
    )  # fmt: skip
