"""choose: picks the candidate that ships, and says why each other candidate lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.check.limits import Limit, limit_checks, limits
from edgekd.figures.candidate import Candidate, Check, Estimate, Latency, Origin, Score
from edgekd.figures.metric import Drop, Judged, Metric, drop_of
from edgekd.figures.verdict import ORDER
from edgekd.figures.words import valued
from edgekd.measure.protocol import faster
from edgekd.recipe import Budget

SIZE_MARGIN = 0.02  # as a share: a smaller difference in size decides only if nothing else does


@dataclass(frozen=True)
class Contender:
    """A candidate with all its figures.

    order_ms: the median on the device or the host. If the target's runtime does not run here, the estimate's low end.
    `order_origin` says which. p90_ms: the p90 latency on the device, if steady. judged: each test sample's part of
    `metric`. drops: the loss against the teacher and against fp32 on the same samples. same_runtime: `latency` was taken
    on this machine in the target's runtime, though the machine is of another kind. in_float: the float student's score;
    none: that of the contender fp32. floors: limits besides the budgets. fault: a reason against shipping, whatever the
    budget allows, or empty.
    """

    name: str
    path: Path
    size_mb: float
    score: Score
    latency: Latency | None
    peak_memory_mb: float | None
    order_ms: float | None
    order_origin: Origin
    fault: str = ""
    estimate: Estimate | None = None
    p90_ms: float | None = None
    in_float: Score | None = None
    judged: Judged | None = None
    metric: Metric | None = None
    drops: Mapping[str, Drop] = field(default_factory=dict)
    same_runtime: bool = False
    floors: tuple[Limit, ...] = ()


def choose(contenders: Sequence[Contender], budget: Budget, teacher: Score | None) -> tuple[Candidate, ...]:
    """The candidates with their verdicts; exactly one candidate is taken.

    Candidates with a fault compete only if all have a fault. Of the rest those compete that miss the fewest budgets, by the
    least. The fastest of them is taken if the order in time is known. Otherwise accuracy decides, then size, then the
    latency on this machine in the target's runtime. A candidate is never taken if another is better in everything.
    """
    missed = misses(contenders, budget, teacher)
    sound = [contender for contender in contenders if not contender.fault] or list(contenders)
    fewest = min(_weight(missed[contender.name]) for contender in sound)
    equals = [contender for contender in sound if _weight(missed[contender.name]) == fewest]
    best, by, lost = _taken(equals)

    unknown = order_unknown(contenders)

    def unordered(contender: Contender) -> bool:
        return bool(unknown) and contender.order_origin == "estimate"

    def reason(contender: Contender) -> str:
        if contender is best:
            return _why(best, by, equals, missed[best.name], len(contenders))
        if contender.fault and contender not in equals:
            return contender.fault
        return lost.get(contender.name) or _misses_more(missed[contender.name], missed[best.name], best.name)

    return tuple(
        Candidate(
            name=c.name, file=_file_of(c, best), size_mb=c.size_mb, score=c.score, latency=c.latency,
            peak_memory_mb=c.peak_memory_mb, estimate=c.estimate, shipped=c is best, reason=reason(c),
            order_ms=None if unordered(c) else c.order_ms, order_origin="not measured" if unordered(c) else c.order_origin,
        )
        for c in contenders
    )  # fmt: skip


def misses(contenders: Sequence[Contender], budget: Budget, teacher: Score | None) -> dict[str, list[Limit]]:
    """The budgets and floors that each candidate misses, by the candidate's name."""
    fp32 = next((contender.score for contender in contenders if contender.name == "fp32"), None)
    return {c.name: [limit for limit in _limits(c, budget, teacher, fp32) if not limit.keeps] for c in contenders}


def budget_checks(contenders: Sequence[Contender], shipped: str, budget: Budget, teacher: Score | None) -> list[Check]:
    """The checks of budgets and floors, and a further check if the order in time is unknown."""
    fp32 = next((contender.score for contender in contenders if contender.name == "fp32"), None)
    taken = next(contender for contender in contenders if contender.name == shipped)
    checks = list(limit_checks(_limits(taken, budget, teacher, fp32), budget))
    if taken.fault:
        checks.append(Check(name=f"{shipped} can be used", verdict="missed", found=taken.fault))
    if unknown := order_unknown(contenders):
        found = f"unknown: {unknown}; edgekd build --device NAME measures it"
        checks.append(Check(name=ORDER, verdict="not measured", found=found, origin="not measured"))
    return checks


def order_unknown(contenders: Sequence[Contender]) -> str:
    """The reason why the device's order in time is unknown; empty if it is measured or estimated."""
    timed = [contender for contender in contenders if contender.order_origin == "estimate"]
    pairs = [(a, b) for i, a in enumerate(timed) for b in timed[i + 1 :]]
    whys = [why for a, b in pairs if (why := _estimates_tell_nothing(a, b))]
    return whys[0] if whys else ""


def _limits(contender: Contender, budget: Budget, teacher: Score | None, fp32: Score | None) -> tuple[Limit, ...]:
    c = contender
    return (*limits(c.score, c.size_mb, budget, teacher, c.in_float or fp32, c.p90_ms, c.drops), *c.floors)


def _weight(missed: Sequence[Limit]) -> tuple[int, float]:
    """The number of missed limits, then the sum of their misses."""
    return len(missed), round(sum(limit.miss for limit in missed), 6)


def _taken(equals: Sequence[Contender]) -> tuple[Contender, str, dict[str, str]]:
    """The winner, the criterion that decided last, and the reason against each other contender."""
    lost: dict[str, str] = {}
    rest, by = list(equals), "nothing"
    for name, worse in (("dominated", _dominated), ("time", _slower), ("accuracy", _less_accurate), ("size", _larger),
                        ("host", _slower_here)):  # fmt: skip
        out = {loser.name: why for loser in rest for other in rest if (why := worse(loser, other))}
        if out and name != "dominated":
            by = name
        lost.update(out)
        rest = [contender for contender in rest if contender.name not in out]
    best = min(rest, key=lambda c: (-c.score.sign * c.score.value, c.size_mb, c.order_ms or 0.0))
    if by == "nothing" and lost:  # a contender that is slower, and better in nothing, was dominated
        by = "time" if any(_slower(c, best) for c in equals) else "dominated"
    lost.update({c.name: f"nothing that is known tells it from {best.name}" for c in rest if c is not best})
    return best, by if len(equals) > 1 else "alone", lost


def _dominated(loser: Contender, other: Contender) -> str:
    """The reason if `other` is as good in every known figure and better in one; else empty.

    Also empty if only one of the two has a time: then nothing is known of the other's.
    """
    times = [(loser.order_ms, other.order_ms), (_here(loser), _here(other))]
    if any((one is None) != (two is None) for one, two in times):
        return ""
    pairs = [
        (-loser.score.sign * loser.score.value, -other.score.sign * other.score.value),
        (loser.size_mb, other.size_mb),
    ]
    pairs += [(one, two) for one, two in times if one is not None and two is not None]
    if any(one < two for one, two in pairs) or all(one == two for one, two in pairs):
        return ""
    if slower := _slower(loser, other):
        return slower
    figures = [f"{_valued(c)} and {c.size_mb:.3f} MB" for c in (loser, other)]
    return f"{other.name} is as good or better in every known figure: {figures[0]} against {figures[1]}"


def _slower(loser: Contender, other: Contender) -> str:
    """The reason if `loser` is clearly slower, on the device or by estimates that do not overlap; else empty."""
    if loser.order_ms is None or other.order_ms is None or loser.order_origin != other.order_origin:
        return ""
    if loser.order_origin == "estimate":
        one, two = loser.estimate, other.estimate
        if one is None or two is None or two.high_ms is None or _estimates_tell_nothing(loser, other):
            return ""
        if two.high_ms >= one.low_ms:
            return ""
    elif loser.latency is None or other.latency is None or faster(other.latency, loser.latency) != "a":
        return ""
    return f"slower than {other.name}: {loser.order_ms:.3g} ms against {other.order_ms:.3g} ms ({loser.order_origin})"


def _less_accurate(loser: Contender, other: Contender) -> str:
    """The reason if `loser` is clearly worse: by a paired interval, else by intervals that do not overlap."""
    if loser.metric is not None and loser.judged is not None and other.judged is not None:
        clear = drop_of(loser.metric, other.judged, loser.judged).low > 0
    elif loser.score.better == "higher":
        clear = other.score.low > loser.score.high
    else:
        clear = other.score.high < loser.score.low
    return f"less accurate than {other.name}: {_valued(loser)} against {_valued(other)}" if clear else ""


def _larger(loser: Contender, other: Contender) -> str:
    if loser.size_mb <= other.size_mb * (1 + SIZE_MARGIN):
        return ""
    return f"larger than {other.name}, {loser.size_mb:.3f} MB against {other.size_mb:.3f} MB; no clear difference in time and accuracy"


def _slower_here(loser: Contender, other: Contender) -> str:
    one, two = _here(loser), _here(other)
    if one is None or two is None or loser.latency is None or other.latency is None:
        return ""
    if faster(other.latency, loser.latency) != "a":
        return ""
    return f"slower than {other.name} on this machine in the same runtime: {one:.3g} ms against {two:.3g} ms (host)"


def _here(contender: Contender) -> float | None:
    """The milliseconds on this machine, if this machine runs the target's runtime; else None."""
    return contender.latency.p50_ms if contender.latency is not None and contender.same_runtime else None


def _estimates_tell_nothing(a: Contender, b: Contender) -> str:
    """The reason why two estimates give no order in time; empty if they give an order."""
    one, two = a.estimate, b.estimate
    if one is None or two is None:
        return "the profile states no memory bandwidth, so nothing is estimated"
    if without := sorted({*one.without_peak, *two.without_peak}):
        return f"the profile states no peak for {', '.join(without)}"
    if one.starts_left_out or two.starts_left_out:
        return "the profile states no launch time of a kernel, which dominates in a small network"
    if one.high_ms is None or two.high_ms is None:
        return "an estimate has no upper end"
    if one.low_ms <= two.high_ms and two.low_ms <= one.high_ms:
        return f"the estimates of {a.name} and {b.name} overlap"
    quick, slow = (a, b) if one.low_ms < two.low_ms else (b, a)
    return (
        f"the estimate says {quick.name}, this machine in the same runtime {slow.name}"
        if _slower_here(quick, slow)
        else ""
    )


def _why(best: Contender, by: str, equals: Sequence[Contender], missed: Sequence[Limit], among: int) -> str:
    """The reason why the best contender was taken, with the budgets that it misses."""
    unknown = order_unknown(equals)
    order = f"the order in time is unknown ({unknown})" if unknown else "no difference in time is clear"
    reasons = {
        "alone": "the only one that keeps the budget" if not missed else "",
        "time": f"the fastest (by {best.order_origin})",
        "accuracy": f"the most accurate; {order}",
        "size": f"the smallest, {best.size_mb:.3f} MB; {order}, and none is clearly more accurate",
        "host": f"the fastest on this machine in the same runtime (host); {order}, accuracy and size part none",
        "dominated": "at least as good as every other in each known figure",
        "nothing": f"{order}, and no other is better in anything",
    }
    reason = reasons[by]
    if not missed and not best.fault:
        if by == "time":
            return f"the fastest that keeps the budget (by {best.order_origin})"
        return reason if by == "alone" else f"keeps the budget; {reason}"
    if best.fault:
        return "; ".join(filter(None, [f"NOT TO SHIP: every candidate has a fault, this one: {best.fault}", reason]))
    told = "; ".join(f"{limit.found}, {limit.key} is {limit.limit}" for limit in missed)
    fewest = "misses the fewest budgets, and the least" if among > 1 else "misses budgets"
    shared = f"; {reason} of {len(equals)} that miss as much" if reason else ""
    return f"NOT TO SHIP: {fewest}: {told}{shared}"


def _misses_more(missed: Sequence[Limit], of_best: Sequence[Limit], best: str) -> str:
    """The reason why a contender does not compete: it misses more than the best contender does."""
    first = f"{missed[0].found}; {missed[0].key} is {missed[0].limit}"
    if not of_best:
        return first
    if len(missed) > len(of_best):
        return f"misses {len(missed)} budgets, {best} {len(of_best)}: {'; '.join(f'{m.found}, {m.key} is {m.limit}' for m in missed)}"
    return f"misses by more than {best}: {first}"


def _valued(contender: Contender) -> str:
    return valued(contender.score.value, contender.score.unit)


def _file_of(contender: Contender, best: Contender) -> str:
    """File name in the bundle, or empty."""
    return "model.onnx" if contender is best else "model.fp32.onnx" if contender.name == "fp32" else ""
