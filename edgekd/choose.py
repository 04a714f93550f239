"""The choice: the fastest candidate that keeps the accuracy budget, and why each of the others lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.measure.protocol import faster
from edgekd.recipe import Budget
from edgekd.report.model import Accuracy, Candidate, Check, Estimate, Latency, Origin

ESTIMATE_MARGIN = 0.1  # an estimate leaves out kernel launches and more: a smaller difference is no order


@dataclass(frozen=True)
class Contender:
    """A candidate with everything that was found out about it.

    order_ms: what the order is made by: the median on the device or on the host, or the profile's lower bound where the
    target's runtime does not run here (`order_origin` says which). p90_ms: on the device, if steady.
    in_float: the float student's accuracy; none: that of the contender fp32.
    fault: why it must not ship whatever the budget allows; empty: nothing.
    """

    name: str
    path: Path
    size_mb: float
    accuracy: Accuracy
    latency: Latency | None
    peak_memory_mb: float | None
    order_ms: float | None
    order_origin: Origin
    fault: str = ""
    estimate: Estimate | None = None
    p90_ms: float | None = None
    in_float: Accuracy | None = None


def choose(contenders: Sequence[Contender], budget: Budget, teacher: Accuracy | None) -> tuple[Candidate, ...]:
    """The candidates with their verdicts, exactly one of which ships; where none keeps the budget, the most accurate.

    One with a fault ships only where every one has a fault.
    """
    broken = {
        c.name: c.fault or _broken(c, budget, teacher, c.in_float or float_accuracy(contenders)) for c in contenders
    }
    able = [contender for contender in contenders if not broken[contender.name]]
    best = _fastest(able) if able else max(contenders, key=lambda c: (not c.fault, c.accuracy.top1))

    def reason(contender: Contender) -> str:
        if contender is best:
            if contender.fault:
                return f"every candidate has a fault, this one: {contender.fault}"
            if not able:
                return f"the most accurate, though no candidate keeps the budget: {broken[contender.name]}"
            return (
                "the fastest that keeps the budget" + _by(contender)
                if len(able) > 1
                else "the only one that keeps the budget"
            )
        return broken[contender.name] or _slower(contender, best)

    return tuple(
        Candidate(
            name=c.name, file=_file_of(c, best), size_mb=c.size_mb, accuracy=c.accuracy, latency=c.latency,
            peak_memory_mb=c.peak_memory_mb, estimate=c.estimate, order_ms=c.order_ms, order_origin=c.order_origin,
            shipped=c is best, reason=reason(c),
        )
        for c in contenders
    )  # fmt: skip


def float_accuracy(contenders: Sequence[Contender]) -> Accuracy:
    """What `max_drop_from_fp32` counts from."""
    return next(contender.accuracy for contender in contenders if contender.name == "fp32")


@dataclass(frozen=True)
class Limit:
    """One budget of the recipe and whether a candidate keeps it."""

    key: str
    keeps: bool
    found: str
    limit: str


def limits(
    accuracy: Accuracy,
    size_mb: float,
    budget: Budget,
    teacher: Accuracy | None,
    fp32: Accuracy,
    p90_ms: float | None = None,
) -> list[Limit]:
    """The budgets that the recipe sets, with what was found, for all that can be found here."""
    # Rounded to the hundredth that is shown, so that 0.3 points of 10,000 samples are not 0.30000000000001.
    top1, under_fp32 = round(accuracy.top1, 2), round(fp32.top1 - accuracy.top1, 2)
    found = []
    if (least := budget.min_accuracy) is not None:
        found.append(Limit("min_accuracy", top1 >= least, f"{top1:.2f} %", f"at least {least:g}"))
    if (most := budget.max_drop_from_teacher) is not None and teacher is not None:
        under_teacher = round(teacher.top1 - accuracy.top1, 2)
        text = f"{under_teacher:.2f} points under the teacher"
        found.append(Limit("max_drop_from_teacher", under_teacher <= most, text, f"at most {most:g}"))
    if (most := budget.max_drop_from_fp32) is not None:
        text = f"{under_fp32:.2f} points under fp32"
        found.append(Limit("max_drop_from_fp32", under_fp32 <= most, text, f"at most {most:g}"))
    if (most := budget.size_mb) is not None:
        found.append(Limit("size_mb", size_mb <= most, f"{size_mb:.3f} MB", f"at most {most:g}"))
    if (most := budget.p90_latency_ms) is not None and p90_ms is not None:
        found.append(Limit("p90_latency_ms", p90_ms <= most, f"p90 {p90_ms:.3g} ms", f"at most {most:g}"))
    return found


def budget_checks(shipped: Candidate, budget: Budget, teacher: Accuracy | None, fp32: Accuracy) -> list[Check]:
    """One line a budget that the recipe sets."""
    checks = [
        Check(name=limit.key, verdict="pass" if limit.keeps else "missed", found=limit.found, limit=limit.limit)
        for limit in limits(shipped.accuracy, shipped.size_mb, budget, teacher, fp32)
    ]
    if (most := budget.p90_latency_ms) is not None:
        checks.append(
            Check(
                name="p90_latency_ms", verdict="not measured", found="needs the device", limit=f"at most {most:g}",
                origin="not measured",
            )
        )  # fmt: skip
    return checks


def _file_of(contender: Contender, best: Contender) -> str:
    """What it is called in the bundle; empty where it is not part of it."""
    return "model.onnx" if contender is best else "model.fp32.onnx" if contender.name == "fp32" else ""


def _broken(contender: Contender, budget: Budget, teacher: Accuracy | None, fp32: Accuracy) -> str:
    """The first budget that a candidate misses, in words; empty where it keeps all."""
    missed = [
        limit
        for limit in limits(contender.accuracy, contender.size_mb, budget, teacher, fp32, contender.p90_ms)
        if not limit.keeps
    ]
    return f"{missed[0].found}; {missed[0].key} is {missed[0].limit}" if missed else ""


def _fastest(able: Sequence[Contender]) -> Contender:
    """The least `order_ms`; where the noise could have decided between two, the smaller file."""
    best = min(able, key=lambda c: (c.order_ms if c.order_ms is not None else float("inf"), c.size_mb))
    for other in able:
        if other is not best and other.size_mb < best.size_mb and not _clearly(best, other):
            best = other
    return best


def _clearly(fast: Contender, slow: Contender) -> bool:
    if fast.order_origin == "estimate" or fast.latency is None or slow.latency is None:
        return (fast.order_ms or 0.0) * (1 + ESTIMATE_MARGIN) < (slow.order_ms or 0.0)
    return faster(fast.latency, slow.latency) == "a"


def _slower(loser: Contender, best: Contender) -> str:
    if loser.order_ms is None or best.order_ms is None:
        return f"larger: {loser.size_mb:.2f} MB against {best.size_mb:.2f} MB (no latency is known)"
    if not _clearly(best, loser):
        why = "what the estimate leaves out" if best.order_origin == "estimate" else "the noise"
        size = "larger" if loser.size_mb > best.size_mb else "no smaller"
        return f"no clear difference in latency to {best.name} ({why} could decide), and it is {size}"
    return f"slower than {best.name}: {loser.order_ms:.3g} ms against {best.order_ms:.3g} ms ({loser.order_origin})"


def _by(contender: Contender) -> str:
    return f" (by {contender.order_origin})" if contender.order_ms is not None else ""
