"""limits, floors: whether a candidate keeps each budget and each default floor, and how far it misses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edgekd.figures.candidate import Check, Score
from edgekd.figures.intervals import Right, paired_interval
from edgekd.figures.metric import Drop, drop_of, in_points
from edgekd.figures.words import beside, between, valued
from edgekd.recipe import Budget
from edgekd.tasks.protocol import Answers, Targets, Task

CHANCE = 0.05  # the chance that a floor is missed by chance alone, over all classes and all reference models
REFERENCES = 2  # the teacher and fp32; with a single reference the floor stays the same


@dataclass(frozen=True)
class Limit:
    """A budget or floor, and whether a candidate keeps it.

    miss: the distance to the limit, 0 if it is kept. Points of percent count as a share of 100, any other figure as
    a share of its limit.
    """

    key: str
    keeps: bool
    found: str
    limit: str
    miss: float = 0.0


def limits(
    score: Score,
    size_mb: float,
    budget: Budget,
    teacher: Score | None,
    fp32: Score | None,
    p90_ms: float | None = None,
    drops: Mapping[str, Drop] | None = None,
) -> list[Limit]:
    """The budgets that the recipe sets and that can be decided here, with the candidate's figures.

    drops: the candidate's loss against "the teacher" and against "fp32" on the same samples, if known.
    """
    # Rounded to hundredths, as shown, so that 0.3 points of 10,000 samples are not 0.30000000000001.
    value = round(score.value, 2) if score.unit == "%" else score.value
    checked = []
    if (bound := budget.min_accuracy) is not None:
        limit = f"at {'least' if score.sign > 0 else 'most'} {bound:g}"
        checked.append(
            _limit("min_accuracy", valued(value, score.unit), limit, score.sign * _share(bound - value, bound, score))
        )
    for key, name, other in (
        ("max_drop_from_teacher", "the teacher", teacher),
        ("max_drop_from_fp32", "fp32", fp32),
    ):
        most = getattr(budget, key)
        if most is not None and other is not None:
            paired = (drops or {}).get(name)
            drop = score.sign * (other.value - score.value) if paired is None else paired.value
            points = round(in_points(drop, other.value, score.unit), 2)
            share = "" if score.unit == "%" else f", {abs(points):g} % of its {score.metric}"
            told = f"{beside(drop, score.unit)} than {name}{share}{_noise(paired, most, other.value, score)}"
            limit = f"at most {most:g}{'' if score.unit == '%' else ' %'}"
            checked.append(_limit(key, told, limit, (points - most) / 100))
    if (most := budget.size_mb) is not None:
        checked.append(_limit("size_mb", f"{size_mb:.3f} MB", f"at most {most:g}", size_mb / most - 1))
    if (most := budget.p90_latency_ms) is not None and p90_ms is not None:
        checked.append(_limit("p90_latency_ms", f"p90 {p90_ms:.3g} ms", f"at most {most:g}", p90_ms / most - 1))
    return checked


def _share(miss: float, of: float, score: Score) -> float:
    """A difference of scores as a share: of 100 where they are percent, else of the figure that it is held against."""
    return miss / 100 if score.unit == "%" else miss / max(abs(of), 1e-12)


def _noise(drop: Drop | None, most: float, reference: float, score: Score) -> str:
    """The paired interval of a drop in words, and whether the limit lies inside that interval."""
    if drop is None:
        return ""
    interval = f" (95 %: {between(drop.low, drop.high, score.unit)})"
    first, last = (in_points(end, reference, score.unit) for end in (drop.low, drop.high))
    return f"{interval}; the limit lies within: {score.n} samples cannot tell" if first <= most <= last else interval


def floors(
    task: Task, answers: Answers, labels: Targets, budget: Budget, references: Mapping[str, Answers]
) -> Iterator[Limit]:
    """The default floors: better than the same answer for all samples, and where samples have classes no class lost.

    answers, labels: of the test split, `[samples, ...]`; references: name of a model -> its answers. No class may fall far
    below these models. Intervals decide, so that a class of few samples is not missed by chance.
    """
    constantly, constant = task.constant(labels)
    own, alike = task.judge(answers, labels), task.judge(constant, labels)
    best = np.array_equal(constant, labels)  # all labels are the same, so that no network can be better
    if budget.above_majority and not best:
        gain = task.metric.sign * (task.metric.value(own) - task.metric.value(alike))
        least = -drop_of(task.metric, alike, own).high
        unit, values = task.metric.unit, (task.metric.value(own), task.metric.value(alike))
        found = f"{valued(values[0], unit)}; {constantly} gives {valued(values[1], unit)}"
        # An interval that touches 0 misses the floor too.
        share = max(-least, 0.0) / (100 if unit == "%" else max(abs(values[1]), 1e-12))
        yield Limit("above_majority", gain > 0 and least > 0, found, "better, by its 95 % interval", share)
    if (classes := task.strata(labels)) is not None and budget.max_class_drop is not None and references:
        right = {name: other == labels for name, other in references.items()}
        yield _class_drop(answers == labels, classes, task.names, budget.max_class_drop, right)


def _class_drop(
    right: Right, labels: npt.NDArray[np.integer], classes: Sequence[str], most: float, references: Mapping[str, Right]
) -> Limit:
    """The floor for the class with the largest certain fall below a reference."""
    rows = [(i, labels == i) for i in np.unique(labels)]
    z = NormalDist().inv_cdf(1 - CHANCE / 2 / (len(rows) * REFERENCES))
    sure = {
        (name, i): paired_interval(reference[row], right[row], z)[0]
        for name, reference in references.items()
        for i, row in rows
    }
    name, i = max(sure, key=lambda at: sure[at])
    row = labels == i
    of, under = 100 * right[row].mean(), 100 * references[name][row].mean()
    found = (
        f"{classes[i]}: {of:.1f} % of {int(row.sum())} samples, {name} {under:.1f} %; "
        f"at least {max(sure[name, i], 0.0):.1f} points lost, by the interval"
    )
    return _limit("max_class_drop", found, f"at most {most:g}", (sure[name, i] - most) / 100)


def limit_checks(checked: Sequence[Limit], budget: Budget) -> Iterator[Check]:
    """A check for each budget and floor."""
    for limit in checked:
        if limit.key != "p90_latency_ms":  # the device's own check decides this budget
            verdict = "pass" if limit.keeps else "missed"
            yield Check(name=limit.key, verdict=verdict, found=limit.found, limit=limit.limit)  # type: ignore[arg-type]
    if (most := budget.p90_latency_ms) is not None:
        yield Check(
            name="p90_latency_ms", verdict="not measured", found="needs the device", limit=f"at most {most:g}",
            origin="not measured",
        )  # fmt: skip


def _limit(key: str, figure: str, limit: str, miss: float) -> Limit:
    # A limit that is kept exactly must not be missed by a rounding error of the subtraction.
    kept = miss <= 1e-12
    return Limit(key, kept, figure, limit, 0.0 if kept else miss)
