"""scatter: the plot of score against latency or size, with error bars on both axes. Host and device never share an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekd.figures.candidate import Candidate, Estimate, Latency, Origin, Score
from edgekd.figures.figures import Report
from edgekd.figures.words import NOT_MEASURED, begun, milliseconds, valued
from edgekd.report.axes import Axis
from edgekd.report.labels import Label, place_labels
from edgekd.report.roofline import in_words


@dataclass(frozen=True)
class Frame:
    """The size of a drawing and its margins, in pixels. `gutter`: the column of models without a place on the x axis."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    gutter: int


WIDE = Frame(920, 380, 60, 24, 26, 50, 170)
NARROW = Frame(360, 340, 46, 12, 26, 68, 84)  # for a telephone: a wide plot shrinks its text


@dataclass(frozen=True)
class Mark:
    """A model in the plot, in pixels. A model without a place on the x axis is drawn in the column at the right."""

    name: str
    role: str
    x: float
    y: float
    y_low: float
    y_high: float
    x_low: float
    x_high: float
    open_end: bool
    text: str
    label: Label
    title: str


@dataclass(frozen=True)
class Place:
    """A model's place and interval on the x axis, in ms or MB, and both in words. high: None for a range without an end."""

    at: float
    low: float
    high: float | None
    words: str


@dataclass(frozen=True)
class Scatter:
    """The plot. x: None if no model has a place on that axis; origin: of the figures there.

    unknown: what the models in the column at the right lack, in two lines.
    """

    heading: str
    unknown: tuple[str, str]
    origin: Origin
    title: str
    note: str
    frame: Frame
    x: Axis | None
    y: Axis
    marks: list[Mark]
    gutter_x: float | None

    @property
    def described(self) -> str:
        """The plot in words, for readers who do not see it."""
        return "; ".join(mark.title for mark in self.marks)


def measured(latency: Latency | None, origin: Origin) -> Place | None:
    """The median and its 95 % interval, of a latency of this origin alone."""
    if latency is None or latency.origin != origin:
        return None
    words = f"p50 {milliseconds(latency.p50_ms)} ms ({latency.origin})"
    return Place(latency.p50_ms, latency.low_ms, latency.high_ms, words)


def estimated(found: Estimate | None) -> Place | None:
    """The whole range of an estimate. The mark stands at its geometric mean, or at the low end if it has no other."""
    if found is None or found.low_ms <= 0:
        return None
    at = found.low_ms if found.high_ms is None else math.sqrt(found.low_ms * found.high_ms)
    return Place(at, found.low_ms, found.high_ms, f"{in_words(found)} (estimate)")


def of_size(size_mb: float | None) -> Place | None:
    """A file's size. It is exact, so it has no interval."""
    return None if not size_mb else Place(size_mb, size_mb, size_mb, f"{size_mb:.3f} MB, order in time not known")


def axis_origin(report: Report) -> Origin:
    """The origin of the figures on the x axis; "not measured" for sizes. A host without TensorRT orders no candidates for it."""
    origin = report.chosen.order_origin
    return "not measured" if origin == "host" and report.runtime == "tensorrt" else origin


def place(candidate: Candidate, origin: Origin) -> Place | None:
    """A candidate's place on the axis of figures of this origin; "not measured": on the axis of size."""
    if origin == "not measured":
        return of_size(candidate.size_mb)
    return estimated(candidate.estimate) if origin == "estimate" else measured(candidate.latency, origin)


def scatter(report: Report, frame: Frame = WIDE) -> Scatter:
    """The plot of teacher and candidates. The figures of one origin stand on the x axis; other models are drawn apart."""
    origin = axis_origin(report)
    teacher = of_size(report.teacher_size_mb) if origin == "not measured" else measured(report.teacher_latency, origin)
    points = [
        *([("teacher", "teacher", report.teacher, teacher)] if report.teacher is not None else []),
        *((c.name, "shipped" if c.shipped else "candidate", c.score, place(c, origin)) for c in report.candidates),
    ]
    placed = [at for _, _, _, at in points if at is not None]
    apart = len(placed) < len(points)
    end = frame.width - frame.right
    right = end - (frame.gutter if apart and placed else 0)
    x = x_axis(placed, frame.left + 8, right) if placed else None
    y = score_axis([score for _, _, score, _ in points], frame)
    gutter_x = ((right + end) / 2 if placed else (frame.left + end) / 2) if apart else None
    texts = [name + (" (in the bundle)" if role == "shipped" else "") for name, role, _, _ in points]
    centres = [x(at.at) if x and at else gutter_x or 0.0 for _, _, _, at in points]
    heights = [y(score.value) for _, _, score, _ in points]
    labels = place_labels(list(zip(centres, heights, texts, strict=True)), (frame.width, frame.height - frame.bottom))
    marks = [
        mark(name, role, score, at, (x, y), centre, (text, label))
        for (name, role, score, at), centre, text, label in zip(points, centres, texts, labels, strict=True)
    ]
    heading, unknown, title = titles(report, origin, frame)
    return Scatter(heading, unknown, origin, f"{title} (logarithmic)", note(y, report), frame, x, y, marks, gutter_x)


def titles(report: Report, origin: Origin, frame: Frame) -> tuple[str, tuple[str, str], str]:
    """The heading, the two lines above the column at the right, and the title of the x axis."""
    metric = begun(report.student.metric)
    if origin == "not measured":
        return f"{metric} against size", ("size", "not known"), "size of the file, MB"
    where = {"host": "on this machine", "device": "on the device", "emulated": "emulated"}.get(origin, "")
    title = f"median {where}, ms"
    if origin == "estimate":
        title = "estimated latency, ms" if frame is NARROW else f"estimated latency on {report.target_title}, ms"
    lacks = "not estimated" if origin == "estimate" else NOT_MEASURED
    return f"{metric} against latency", ("latency", lacks), title


def note(y: Axis, report: Report) -> str:
    """A sentence if the axis of scores does not begin at 0, because distances then look larger than they are."""
    unit = report.student.unit
    return f"The vertical axis begins at {valued(round(y.low, 2), unit)}, not at 0." if y.low > 0 else ""


def x_axis(placed: Sequence[Place], left: float, right: float) -> Axis:
    """A logarithmic axis, because ratios matter. It holds every interval and spans at least a factor of four."""
    low = min(place.low for place in placed) / 1.5
    high = max(place.at if place.high is None else place.high for place in placed) * 1.5
    if any(place.high is None for place in placed):
        high *= 4  # room for an arrow
    widen = max(1.0, math.sqrt(4 * low / high))
    return Axis(max(low / widen, 1e-6), max(high * widen, 1e-5), left, right, logarithmic=True)


def score_axis(scores: Sequence[Score], frame: Frame) -> Axis:
    """The axis of scores, wide enough for every interval. The axis of a share ends at 0 and 100 %."""
    low, high = min(score.low for score in scores), max(score.high for score in scores)
    share = scores[0].unit == "%"
    margin = max(0.12 * (high - low), 0.25 if share else 0.01 * abs(high), 1e-6)
    low, high = low - margin, high + margin
    return Axis(
        max(0.0, low) if share else low, min(100.0, high) if share else high, frame.height - frame.bottom, frame.top
    )


def mark(
    name: str,
    role: str,
    score: Score,
    at: Place | None,
    axes: tuple[Axis | None, Axis],
    centre: float,
    named: tuple[str, Label],
) -> Mark:
    """A point with its intervals. centre: its place on the x axis or in the column at the right; named: its text and place."""
    x, y = axes
    low = high = centre
    if x is not None and at is not None:
        low, high = x(at.low), x.end_px if at.high is None else x(at.high)
    found = f"{score.metric} {valued(score.value, score.unit)}"
    return Mark(
        name=name,
        role=role,
        x=centre,
        y=y(score.value),
        y_low=y(score.low),
        y_high=y(score.high),
        x_low=low,
        x_high=high,
        open_end=at is not None and at.high is None,
        text=named[0],
        label=named[1],
        title=f"{name}: {found} ({score.origin}), {at.words if at else f'p50 {NOT_MEASURED}'}",
    )


def conditions(report: Report) -> list[str]:
    """A sentence for each distinct set of conditions of the plot's latencies. Empty if the plot shows sizes."""
    origin = axis_origin(report)
    if origin == "not measured":
        return []
    if origin == "estimate" and report.chosen.estimate is not None:
        return [f"estimate: {report.chosen.estimate.basis}"]
    timed = [*(c.latency for c in report.candidates), report.teacher_latency]
    return described(t for t in timed if t is not None and t.origin == origin)


def described(timed: Iterable[Latency]) -> list[str]:
    """The conditions of these latencies, each once, with all runtimes that share them."""
    runtimes: dict[tuple[str, str], list[str]] = {}
    for t in timed:
        how = f"batch {t.batch_size}, {t.threads} thread{'s' if t.threads > 1 else ''}"
        runtimes.setdefault((f"{t.origin}: {t.machine}", how), []).append(t.runtime)
    return [f"{where}; {' and '.join(dict.fromkeys(names))}; {how}" for (where, how), names in runtimes.items()]
