"""verdict_of: should this bundle ship? The answer of its checks, with the reasons and with what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekd.figures.candidate import Candidate, Check

Answer = Literal["SHIP", "NOT TO SHIP", "NOT DECIDED"]
ANSWERS: tuple[Answer, ...] = ("SHIP", "NOT TO SHIP", "NOT DECIDED")
P90 = "p90_latency_ms"  # budgets are named as their checks are
ACCURACY = ("min_accuracy", "max_drop_from_teacher")  # max_drop_from_fp32 compares the student with itself
BUDGETS = (*ACCURACY, "max_drop_from_fp32", "size_mb", P90)
LATENCY = "latency on "  # begins the name of a device's latency check
ORDER = "order of the candidates in time"  # says which candidate is fastest, not whether one is fast enough


@dataclass(frozen=True)
class Verdict:
    """The answer with its reasons, and what is missing where nothing is decided."""

    answer: Answer
    headline: str
    reasons: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def lines(self, bundle: str = "BUNDLE") -> list[str]:
        """The headline, then a line for each reason and for each missing thing; commands name the bundle's folder."""
        told = [self.headline, *(f"  {one}" for one in self.reasons), *(f"  missing: {one}" for one in self.missing)]
        return [line.replace("measure BUNDLE", f"measure {bundle}") for line in told]


def verdict_of(checks: Sequence[Check], candidates: Sequence[Candidate], runtime: str) -> Verdict:
    """SHIP only if budgets of accuracy and latency are set, no check is without a verdict, and none is missed.

    The budget of latency has a verdict only from a device of the target's kind. A missed check gives NOT TO SHIP, whatever
    else is missing. candidates: exactly one is `shipped`; runtime: the target's.
    """
    shipped = next(candidate for candidate in candidates if candidate.shipped)
    if missed := [check for check in checks if check.verdict == "missed"]:
        count = f"{len(missed)} check{'s' if len(missed) > 1 else ''} missed"
        headline = f"NOT TO SHIP: {count} ({', '.join(check.name for check in missed)})"
        return Verdict("NOT TO SHIP", headline, tuple(map(_told, missed)))
    kept = [_told(check) for check in checks if check.verdict == "pass" and check.name in BUDGETS]
    unset, undecided = tuple(_unset(checks)), list(_undecided(checks))
    if not unset and all(check.name == ORDER for check in undecided):
        told = (*kept, *map(_told, undecided))
        on = "this machine" if any(check.name == P90 and check.origin == "host" for check in checks) else "the device"
        return Verdict("SHIP", f"SHIP: {shipped.name} keeps the budgets of accuracy and of latency on {on}", told)
    facts = [f"no budget of {' or '.join(what for what, _ in unset)} is set"] if unset else []
    facts += [f"{check.name} is {check.verdict}" for check in undecided if check.name != ORDER]
    slower = tuple(_slower_here(shipped, candidates)) if runtime == "onnxruntime" else ()
    missing = (*(how for _, how in unset), *map(_told, undecided))
    return Verdict("NOT DECIDED", f"NOT DECIDED: {_listed([*facts, *slower])}", tuple(kept), missing)


def _undecided(checks: Sequence[Check]) -> Iterator[Check]:
    """The checks without a verdict. A device that was not steady counts no longer where a steady one keeps the budget."""
    kept = any(check.name == P90 and check.verdict == "pass" for check in checks)
    for check in checks:
        left_out = kept and check.verdict == "unstable" and check.name.startswith(LATENCY)
        if check.verdict in ("not measured", "unstable") and not left_out:
            yield check


def _unset(checks: Sequence[Check]) -> Iterator[tuple[str, str]]:
    """The figures that no budget limits, each with the keys that would."""
    names = {check.name for check in checks}
    if not names & set(ACCURACY):
        yield "accuracy", f"a budget of accuracy; set budget.{' or budget.'.join(ACCURACY)} in the recipe"
    if P90 not in names:
        yield "latency", f"a budget of latency; set budget.{P90} in the recipe"


def _slower_here(shipped: Candidate, candidates: Sequence[Candidate]) -> Iterator[str]:
    """Whether the shipped candidate is clearly slower than fp32 on this machine."""
    fp32 = next((each.latency for each in candidates if each.name == "fp32"), None)
    if fp32 is not None and shipped.latency is not None and shipped.latency.low_ms > fp32.high_ms:
        yield f"{shipped.name} was slower than fp32 on this machine"


def _told(check: Check) -> str:
    return f"{check.name}: {check.found}{f', limit {check.limit}' if check.limit else ''}"


def _listed(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
