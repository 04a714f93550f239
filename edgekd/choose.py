"""The choice: the fastest candidate that keeps the accuracy budget, and why each of the others lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.measure.protocol import faster
from edgekd.recipe import Budget
from edgekd.report.model import Accuracy, Candidate, Check, Latency, Origin


@dataclass(frozen=True)
class Contender:
    """A candidate with everything that was found out about it.

    order_ms: what the order is made by: the host's median, or the profile's lower bound where the target's runtime does
    not run here (`order_origin` says which).
    """

    name: str
    path: Path
    size_mb: float
    accuracy: Accuracy
    latency: Latency | None
    peak_memory_mb: float | None
    order_ms: float | None
    order_origin: Origin


def choose(contenders: Sequence[Contender], budget: Budget, teacher: Accuracy) -> tuple[Candidate, ...]:
    """The candidates with their verdicts, exactly one of which ships; where none keeps the budget, the most accurate."""
    fp32 = next(contender for contender in contenders if contender.name == "fp32")
    broken = {
        c.name: accuracy_broken(c.accuracy, budget, teacher, fp32.accuracy) or size_broken(c.size_mb, budget)
        for c in contenders
    }
    able = [contender for contender in contenders if not broken[contender.name]]
    best = _fastest(able) if able else max(contenders, key=lambda contender: contender.accuracy.top1)

    def reason(contender: Contender) -> str:
        if contender is best:
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
            name=c.name, file=c.path.name, size_mb=c.size_mb, accuracy=c.accuracy, latency=c.latency,
            peak_memory_mb=c.peak_memory_mb, shipped=c is best, reason=reason(c),
        )
        for c in contenders
    )  # fmt: skip


def accuracy_broken(accuracy: Accuracy, budget: Budget, teacher: Accuracy, fp32: Accuracy) -> str:
    """Which accuracy budget is missed, in words; empty where all hold."""
    for key, found, limit, what in _accuracy_limits(accuracy, budget, teacher, fp32):
        if limit is not None and (found < limit if key == "min_accuracy" else found > limit):
            return f"{what.format(found)}; {key} is {limit:g}"
    return ""


def _accuracy_limits(
    accuracy: Accuracy, budget: Budget, teacher: Accuracy, fp32: Accuracy
) -> list[tuple[str, float, float | None, str]]:
    # Rounded to the hundredth that is shown, so that 0.3 points of 10,000 samples are not 0.30000000000001.
    return [
        ("min_accuracy", round(accuracy.top1, 2), budget.min_accuracy, "{:.2f} %"),
        (
            "max_drop_from_teacher",
            round(teacher.top1 - accuracy.top1, 2),
            budget.max_drop_from_teacher,
            "{:.2f} points under the teacher",
        ),
        (
            "max_drop_from_fp32",
            round(fp32.top1 - accuracy.top1, 2),
            budget.max_drop_from_fp32,
            "{:.2f} points under fp32",
        ),
    ]


def size_broken(size_mb: float, budget: Budget) -> str:
    """The size budget, in words, where it is missed."""
    return (
        f"{size_mb:.2f} MB; size_mb is {budget.size_mb:g}"
        if budget.size_mb is not None and size_mb > budget.size_mb
        else ""
    )


def budget_checks(shipped: Candidate, budget: Budget, teacher: Accuracy, fp32: Accuracy) -> list[Check]:
    """One line a budget that the recipe sets."""
    checks = []
    for key, found, limit, what in _accuracy_limits(shipped.accuracy, budget, teacher, fp32):
        if limit is not None:
            holds = found >= limit if key == "min_accuracy" else found <= limit
            sign = "at least" if key == "min_accuracy" else "at most"
            checks.append(
                Check(
                    name=key, verdict="pass" if holds else "missed", found=what.format(found), limit=f"{sign} {limit:g}"
                )
            )
    if budget.size_mb is not None:
        verdict = "missed" if size_broken(shipped.size_mb, budget) else "pass"
        checks.append(
            Check(
                name="size_mb", verdict=verdict, found=f"{shipped.size_mb:.3f} MB", limit=f"at most {budget.size_mb:g}"
            )
        )
    if budget.p90_latency_ms is not None:
        checks.append(
            Check(
                name="p90_latency_ms",
                verdict="not measured",
                found="needs the device",
                limit=f"at most {budget.p90_latency_ms:g}",
                origin="not measured",
            )
        )
    return checks


def _fastest(able: Sequence[Contender]) -> Contender:
    """The least `order_ms`; where the noise could have decided between two, the smaller file."""
    best = min(able, key=lambda c: (c.order_ms if c.order_ms is not None else float("inf"), c.size_mb))
    for other in able:
        if other is not best and other.size_mb < best.size_mb and not _clearly(best, other):
            best = other
    return best


def _clearly(fast: Contender, slow: Contender) -> bool:
    if fast.order_origin != "host" or fast.latency is None or slow.latency is None:
        return (fast.order_ms or 0.0) < (slow.order_ms or 0.0)
    return faster(fast.latency, slow.latency) == "a"


def _slower(loser: Contender, best: Contender) -> str:
    if loser.order_ms is None or best.order_ms is None:
        return f"larger: {loser.size_mb:.2f} MB against {best.size_mb:.2f} MB (no latency is known)"
    if not _clearly(best, loser):
        return f"no clear difference in latency to {best.name} (the noise could have decided), and it is larger"
    return f"slower than {best.name}: {loser.order_ms:.3g} ms against {best.order_ms:.3g} ms ({loser.order_origin})"


def _by(contender: Contender) -> str:
    return f" (by {contender.order_origin})" if contender.order_ms is not None else ""
