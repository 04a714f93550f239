"""quantize_student: quantizes the student by `quantize.mode`; "auto" climbs a ladder of ways.

The ladder ends at the first rung that holds the budget. Each rung is a stage, scored on the hold-out split. The decision
is not part of a stage, so another budget trains nothing again. A build after a kill resumes at its rung.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from edgekd.base.console import say
from edgekd.cache.stage import Artifact, Cache
from edgekd.figures.metric import Metric, in_points
from edgekd.figures.words import beside, valued
from edgekd.quantize.sensitivity import FloatOperator, Sensitivity
from edgekd.recipe import REFINEMENTS, Quantize
from edgekd.steps.quantize import (
    HOLDOUT,
    IN_FLOAT,
    SENSITIVITY,
    Plan,
    Subject,
    measure_sensitivity,
    quantize,
    record_activations,
    score_holdout,
    train_quantized,
)
from edgekd.steps.teaching import Teaching

FLOAT_SHARE = 0.25  # of all multiplications: with a larger share in float, int8 gains little


@dataclass(frozen=True)
class Rung:
    """A way to quantize the student, with its score on the hold-out split and its drop from fp32."""

    name: str
    plan: Plan
    quantized: Artifact
    value: float | None = None
    drop: float | None = None
    holds: bool | None = None  # none: not scored


@dataclass(frozen=True)
class Quantized:
    """The rungs that were tried, in order, and the rung that was taken."""

    taken: Rung
    tried: tuple[Rung, ...]
    sensitivities: tuple[Sensitivity, ...]
    float_operators: tuple[FloatOperator, ...]


def quantize_student(
    run: Cache,
    subject: Subject,
    recipe: Quantize,
    max_drop: float | None,
    teaching: Teaching,
    metric: Metric,
) -> Quantized:
    """The quantized student. max_drop: the largest drop from fp32 on the hold-out split for "auto"; none: any drop."""

    @cache
    def recorded(equalized: bool, in_float: tuple[str, ...]) -> Artifact:
        return run(record_activations, subject, equalized, in_float)

    def statistics(plan: Plan) -> Artifact:
        # A layer in float is no longer fused with its neighbours, so other tensors are quantized.
        return recorded(plan.equalized, plan.in_float)

    def make(name: str, plan: Plan) -> Rung:
        if plan.trained:
            made = run(train_quantized, subject, statistics(plan), plan, teaching, recipe.training)
        else:
            made = run(quantize, subject, statistics(plan), plan)
        return Rung(name, plan, made)

    def try_out(name: str, plan: Plan) -> Rung:
        rung = make(name, plan)
        value = _value(run(score_holdout, subject, plan, rung.quantized))
        drop = metric.rounded(metric.sign * (fp32 - value))
        holds = max_drop is None or in_points(drop, fp32, metric.unit) <= max_drop
        found, far = valued(value, metric.unit), beside(drop, metric.unit)
        say(f"  {name}: {found} on the hold-out split, {far} than fp32{', enough' if holds else ''}")
        return Rung(name, plan, rung.quantized, value, drop, holds)

    asked = Plan(recipe.calibration, recipe.refine, trained=recipe.mode == "qat")
    first = statistics(asked if recipe.mode != "auto" else Plan(recipe.calibration))
    left = tuple(FloatOperator(**operator) for operator in json.loads((first / IN_FLOAT).read_text()))
    for operator in left:
        say(f"  {operator}")
    if recipe.mode != "auto":
        rung = make(recipe.mode, asked)
        return Quantized(rung, (rung,), (), left)

    fp32 = _value(run(score_holdout, subject, None, None))
    table: list[Sensitivity] = []
    tried: list[Rung] = []
    for name, plan in _plans(run, subject, recipe, statistics, table):
        tried.append(try_out(name, plan))
        if tried[-1].holds:
            break
    else:
        say("  no way to quantize holds the budget on the hold-out split: the most accurate is taken")
    taken = tried[-1] if tried[-1].holds else max(tried, key=lambda rung: metric.sign * (rung.value or 0.0))
    return Quantized(taken, tuple(tried), tuple(table), left)


def _plans(
    run: Cache,
    subject: Subject,
    recipe: Quantize,
    statistics: Callable[[Plan], Artifact],
    table: list[Sensitivity],
) -> Iterator[tuple[str, Plan]]:
    """The rungs from the cheapest to the most expensive. `table` is filled if mixed precision is tried."""
    calibrated = Plan(recipe.calibration)
    refined = Plan(recipe.calibration, recipe.refine or REFINEMENTS)
    yield "ptq", calibrated
    yield "ptq, refined", refined
    measured = run(measure_sensitivity, subject, statistics(refined), refined)
    table += [Sensitivity(**layer) for layer in json.loads((measured / SENSITIVITY).read_text())]
    for layers in worst(table):
        kept = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
        yield f"ptq, refined, {kept} in float", Plan(recipe.calibration, refined.refine, layers)
    yield "qat", Plan(recipe.calibration, trained=True)


def worst(table: Sequence[Sensitivity]) -> Iterator[tuple[str, ...]]:
    """The 1, 2, 4, ... most sensitive layers, within the allowed share of all multiplications."""
    allowed = FLOAT_SHARE * sum(layer.multiplications for layer in table)
    chosen: list[str] = []
    for layer in sorted(table, key=lambda layer: -layer.divergence):
        if layer.multiplications <= allowed:
            allowed -= layer.multiplications
            chosen.append(layer.layer)
    count = 1
    while count < len(chosen):
        yield tuple(chosen[:count])
        count *= 2
    if chosen:
        yield tuple(chosen)


def _value(scored: Artifact) -> float:
    return float(json.loads((scored / HOLDOUT).read_text())["value"])
