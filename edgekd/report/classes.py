"""class_rows, matrix: the page's rows of each class, and the confusion matrix with the shade of each cell."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from edgekd.figures.figures import Report, Share


@dataclass(frozen=True)
class Dot:
    """A figure on a class's line, with its 95 % interval where there is one. `at`, `low`, `high`: percent of the line."""

    value: float
    at: float
    interval: Share | None = None
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class ClassRow:
    """The score of a class, by the shipped model and by the teacher. n: its test samples; None where not counted."""

    name: str
    n: int | None
    shipped: Dot
    teacher: Dot | None

    @property
    def change(self) -> float | None:
        return None if self.teacher is None else self.shipped.value - self.teacher.value


def class_rows(report: Report) -> tuple[list[ClassRow], float]:
    """The rows of all classes of the shipped model, and the value at which the lines begin.

    The largest loss against the teacher comes first; without a teacher the lowest score.
    """
    shipped = {name: value for name, value in report.chosen.score.parts.items() if name in set(report.classes)}
    teacher = {name: value for name, value in _by_teacher(report).items() if name in shipped}
    if not shipped:
        return [], 0.0
    counted = {found.name: found for found in report.by_class}
    shares = [share for found in report.by_class for share in (found.shipped, found.teacher) if share is not None]
    lowest = min([*shipped.values(), *teacher.values(), *(s.low for s in shares)])
    start = max(0.0, math.floor((lowest - 2) / 10) * 10.0)
    end = 100.0 if report.chosen.score.unit == "%" else max([*shipped.values(), *teacher.values(), start + 1e-6])

    def at(value: float) -> float:
        return round((value - start) / (end - start) * 100, 1)

    def dot(value: float, share: Share | None) -> Dot:
        return Dot(value, at(value)) if share is None else Dot(value, at(value), share, at(share.low), at(share.high))

    rows = [
        ClassRow(
            name,
            counted[name].n if name in counted else None,
            dot(value, counted[name].shipped if name in counted else None),
            dot(teacher[name], counted[name].teacher if name in counted else None) if name in teacher else None,
        )
        for name, value in shipped.items()
    ]
    sign = report.chosen.score.sign
    return sorted(
        rows,
        key=lambda row: (
            row.change is None,
            sign * (row.shipped.value if row.change is None else row.change),
            row.name,
        ),
    ), start


def other_figures(report: Report) -> list[tuple[str, float, float | None]]:
    """The parts of the score that are of no class, as R²: name, the shipped model's and the teacher's."""
    classes, teacher = set(report.classes), _by_teacher(report)
    parts = report.chosen.score.parts
    return [(name, value, teacher.get(name)) for name, value in parts.items() if name not in classes]


def _by_teacher(report: Report) -> dict[str, float]:
    return report.teacher.parts if report.teacher is not None else {}


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix. kind: right, wrong or zero; shade: percent of the class's samples."""

    n: int
    kind: str
    shade: int


def matrix(report: Report) -> list[tuple[str, list[Cell]]]:
    """The rows of the confusion matrix: a class with its cells, in the order of the classes. Empty for many classes."""
    if report.confusion is None:
        return []
    return [
        (name, list(_cells(i, counts)))
        for i, (name, counts) in enumerate(zip(report.classes, report.confusion.counts, strict=False))
    ]


def _cells(own: int, counts: tuple[int, ...]) -> Iterable[Cell]:
    total = max(sum(counts), 1)
    for i, n in enumerate(counts):
        kind = "right" if i == own else "wrong" if n else "zero"
        yield Cell(n, kind, math.ceil(100 * n / total))
