"""render: writes a report as a single HTML file that loads no other file. report.html.j2 draws charts as SVG."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekd.figures.candidate import Candidate, Latency, Score
from edgekd.figures.devices import deciding
from edgekd.figures.figures import Report
from edgekd.figures.words import NOT_MEASURED, milliseconds, signed, valued
from edgekd.report.axes import Axis
from edgekd.report.on_device import further
from edgekd.report.roofline import in_words, left_out_of_plot, roofline, time_by_kind
from edgekd.report.templates import templates
from edgekd.scripts.run import palette

CLASSES_SHOWN = 30
TERM_COLOURS = 8


@dataclass(frozen=True)
class Mark:
    """A model in the accuracy plot, in pixels. A model without latency is drawn in the column at the right."""

    name: str
    role: str
    x: float
    y: float
    y_low: float
    y_high: float
    x_low: float
    x_high: float
    label_x: float
    label_y: float
    anchor: str
    title: str


@dataclass(frozen=True)
class Speed:
    """A model's place and interval on the axis of latency (or of size, in MB), and both in words."""

    ms: float
    low_ms: float
    high_ms: float
    words: str


def speed(latency: Latency | None) -> Speed | None:
    if latency is None:
        return None
    words = f"p50 {milliseconds(latency.p50_ms)} ms ({latency.origin})"
    return Speed(latency.p50_ms, latency.low_ms, latency.high_ms, words)


def estimated_speed(candidate: Candidate) -> Speed | None:
    """The middle and range of a candidate's estimate, for a plot whose order comes from estimates."""
    found = candidate.estimate
    if found is None or found.high_ms is None or found.low_ms <= 0:
        return None
    words = f"{milliseconds(found.low_ms)} to {milliseconds(found.high_ms)} ms (estimate)"
    return Speed(math.sqrt(found.low_ms * found.high_ms), found.low_ms, found.high_ms, words)


def file_size(size_mb: float | None) -> Speed | None:
    """A model's place on the axis of size, for a report whose order in time is not known."""
    return None if not size_mb else Speed(size_mb, size_mb, size_mb, f"{size_mb:.3f} MB, order in time not known")


@dataclass(frozen=True)
class Scatter:
    """The plot of score against measured or estimated latency, or against size if the order in time is not known."""

    heading: str
    unknown: str
    title: str
    width: int
    height: int
    x: Axis | None
    y: Axis
    marks: list[Mark]
    gutter_x: float | None


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, GUTTER = 920, 380, 56, 24, 24, 48, 170


def scatter(report: Report) -> Scatter:
    """The plot of teacher and candidates. Models without a known latency are drawn apart, at their score."""
    origin = report.chosen.order_origin
    by_estimate, by_size = origin == "estimate", origin == "not measured"
    teacher = file_size(report.teacher_size_mb) if by_size else None if by_estimate else speed(report.teacher_latency)
    points: list[tuple[str, str, Score, Speed | None]] = [
        *([("teacher", "teacher", report.teacher, teacher)] if report.teacher is not None else []),
        *(
            (
                c.name,
                "shipped" if c.shipped else "candidate",
                c.score,
                file_size(c.size_mb) if by_size else estimated_speed(c) if by_estimate else speed(c.latency),
            )
            for c in report.candidates
        ),
    ]
    timed = [latency for _, _, _, latency in points if latency is not None]
    apart = len(timed) < len(points)
    plot_right = WIDTH - RIGHT - (GUTTER if apart and timed else 0)
    x = latency_axis(timed, plot_right) if timed else None
    y = score_axis([score for _, _, score, _ in points])
    gutter_x = ((plot_right + WIDTH - RIGHT) / 2 if timed else WIDTH / 2) if apart else None
    marks: list[Mark] = []
    for name, role, score, latency in points:
        centre = x(latency.ms) if x and latency else float(gutter_x or 0)
        spread = (x(latency.low_ms), x(latency.high_ms)) if x and latency else (centre, centre)
        marks.append(mark(name, role, score, latency, centre, spread, y, marks))
    title = f"estimated latency on {report.target_title}, ms" if by_estimate else "median latency, ms"
    metric = report.student.metric[:1].upper() + report.student.metric[1:]
    heading, unknown = f"{metric} against latency", f"latency {NOT_MEASURED}"
    if by_size:
        heading, unknown, title = f"{metric} against size", "size not known", "size of the file, MB"
    return Scatter(heading, unknown, f"{title} (logarithmic)", WIDTH, HEIGHT, x, y, marks, gutter_x)


def latency_axis(timed: Sequence[Speed], right: float) -> Axis:
    """The logarithmic axis of latency, because ratios matter. It spans at least a factor of four, so that ticks exist."""
    low, high = min(t.low_ms for t in timed) / 1.5, max(t.high_ms for t in timed) * 1.5
    widen = max(1.0, math.sqrt(4 * low / high))
    return Axis(max(low / widen, 1e-6), max(high * widen, 1e-5), LEFT + 8, right, logarithmic=True)


def score_axis(scores: Sequence[Score]) -> Axis:
    """The axis of scores, wide enough for every interval. The axis of a share ends at 0 and 100 %."""
    low, high = min(score.low for score in scores), max(score.high for score in scores)
    share = scores[0].unit == "%"
    margin = max(0.12 * (high - low), 0.25 if share else 0.01 * abs(high), 1e-6)
    low, high = low - margin, high + margin
    return Axis(max(0.0, low) if share else low, min(100.0, high) if share else high, HEIGHT - BOTTOM, TOP)


def mark(
    name: str,
    role: str,
    score: Score,
    latency: Speed | None,
    centre: float,
    spread: tuple[float, float],
    y: Axis,
    others: Sequence[Mark],
) -> Mark:
    """A point with its label, to the right if there is room. The label moves down if another label is near."""
    height = y(score.value)
    label_y = height - 10
    near = [m.label_y for m in others if abs(m.x - centre) < 110]
    while any(abs(label_y - other) < 16 for other in near):
        label_y += 16
    at_right = centre > WIDTH - 100
    return Mark(
        name=name,
        role=role,
        x=centre,
        y=height,
        y_low=y(score.low),
        y_high=y(score.high),
        x_low=spread[0],
        x_high=spread[1],
        label_x=centre - 10 if at_right else centre + 10,
        label_y=label_y,
        anchor="end" if at_right else "start",
        title=f"{name}: {score.metric} {valued(score.value, score.unit)} ({score.origin}), {latency.words if latency else f'p50 {NOT_MEASURED}'}",
    )


@dataclass(frozen=True)
class Line:
    name: str
    colour: int
    points: str
    last: str


@dataclass(frozen=True)
class Chart:
    """A small line chart over epochs."""

    title: str
    width: int
    height: int
    x: Axis
    y: Axis
    lines: list[Line]


def charts(curves: Sequence[dict[str, float]], metric: str) -> list[Chart]:
    """Charts of the metric on the hold-out split, of the loss with its terms, and of the learning rate.

    A chart without data is left out.
    """
    keys = list(dict.fromkeys(key for epoch in curves for key in epoch))
    terms = [key for key in keys if key.startswith("loss/")]
    panels = {
        f"hold-out {metric}": ["holdout"],
        "loss, its terms unweighted": ["loss", *terms],
        "learning rate": ["lr"],
    }
    drawn = (chart(title, curves, [key for key in names if key in keys]) for title, names in panels.items())
    return [panel for panel in drawn if panel is not None]


def temperatures(report: Report) -> list[dict[str, float]]:
    """The curve of the temperature, with T in the place of epochs."""
    return [{"epoch": temperature, "holdout": found} for temperature, found in report.temperature_curve]


def chosen_temperature(report: Report) -> str:
    """The title of the temperature's curve, with the best temperature, the first of equals."""
    sign = 1 if report.student.better == "higher" else -1
    best, found = max(report.temperature_curve, key=lambda point: sign * point[1], default=(0.0, 0.0))
    return f"Temperature {best:g} was chosen, {valued(found, report.student.unit)} on the hold-out split (x: T)"


def chart(title: str, curves: Sequence[dict[str, float]], keys: Sequence[str]) -> Chart | None:
    series = {key: finite_points(curves, key) for key in keys}
    series = {key: points for key, points in series.items() if points}
    if not series:
        return None
    values = [v for points in series.values() for _, v in points]
    epochs = [e for points in series.values() for e, _ in points]
    low, high = min(values), max(values)
    width, height = 300, 190
    x = Axis(min(epochs), max(epochs), 44, width - 8, whole=True)
    y = Axis(low, high if high > low else low + 1, height - 26, 12)
    lines = [
        Line(
            name=key.removeprefix("loss/"),
            colour=i % TERM_COLOURS,
            points=" ".join(f"{x(e)},{y(v)}" for e, v in points),
            last=f"{points[-1][1]:.4g} "
            + ("at the end" if points[-1][0] == max(epochs) else f"at {points[-1][0]:g}, its last"),
        )
        for i, (key, points) in enumerate(series.items())
    ]
    return Chart(title, width, height, x, y, lines)


def finite_points(curves: Sequence[dict[str, float]], key: str) -> list[tuple[float, float]]:
    """The points (epoch, value) of every epoch that has a finite value."""
    numbered = [(epoch.get("epoch", float(i)), epoch.get(key, math.nan)) for i, epoch in enumerate(curves)]
    return [(epoch, value) for epoch, value in numbered if math.isfinite(value)]


LAYERS_SHOWN = 25


@dataclass(frozen=True)
class SensitivityRow:
    """A layer in the sensitivity plot. `width`: the length of its bar in percent of the longest."""

    name: str
    divergence: str
    share: float
    in_float: bool
    width: float


def sensitivity_rows(report: Report) -> list[SensitivityRow]:
    """The rows of the most sensitive layers. Bars show the logarithm of the divergence, which spans decades."""
    layers = report.sensitivity[:LAYERS_SHOWN]
    positive = [layer.divergence for layer in layers if layer.divergence > 0]
    if not positive:
        return [SensitivityRow(layer.layer, "0", layer.share, layer.in_float, 0.0) for layer in layers]
    scale = Axis(min(positive) / 2, max(max(positive), min(positive) * 1.01), 0, 100, logarithmic=True)
    return [
        SensitivityRow(
            layer.layer, f"{layer.divergence:.2g}", layer.share, layer.in_float,
            scale(layer.divergence) if layer.divergence > 0 else 0.0,
        )
        for layer in layers
    ]  # fmt: skip


@dataclass(frozen=True)
class ClassRow:
    """The score of a class, and its place on the bar (0..100 %)."""

    name: str
    teacher: float | None
    shipped: float
    teacher_at: float | None
    shipped_at: float

    @property
    def change(self) -> float | None:
        return None if self.teacher is None else self.shipped - self.teacher


def class_rows(report: Report) -> tuple[list[ClassRow], float]:
    """The rows of all classes of the shipped model, and the value at which the bars begin.

    The largest loss against the teacher comes first; without a teacher the lowest score.
    """
    shipped, teacher = report.chosen.score.parts, report.teacher.parts if report.teacher is not None else {}
    sign = report.chosen.score.sign
    if not shipped:
        return [], 0.0
    lowest = min([*shipped.values(), *(v for name, v in teacher.items() if name in shipped)])
    start = max(0.0, math.floor((lowest - 2) / 10) * 10.0)
    end = 100.0 if report.chosen.score.unit == "%" else max([*shipped.values(), *teacher.values(), start + 1e-6])

    def at(value: float) -> float:
        return round((value - start) / (end - start) * 100, 2)

    rows = [
        ClassRow(name, teacher.get(name), value, at(teacher[name]) if name in teacher else None, at(value))
        for name, value in shipped.items()
    ]
    return sorted(
        rows, key=lambda row: (row.change is None, sign * (row.shipped if row.change is None else row.change), row.name)
    ), start


def conditions(report: Report) -> list[str]:
    """A sentence for each distinct set of conditions of the plot's latencies. Empty if the plot shows sizes."""
    if report.chosen.order_origin == "not measured":
        return []
    if report.chosen.order_origin == "estimate" and report.chosen.estimate is not None:
        return [f"estimate: {report.chosen.estimate.basis}"]
    timed = [*(c.latency for c in report.candidates), report.teacher_latency]
    return unique(
        f"{t.origin}: {t.machine}; {t.runtime}; batch {t.batch_size}, {t.threads} thread{'s' if t.threads > 1 else ''}"
        for t in timed
        if t is not None
    )


def unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def colours(names: Sequence[str]) -> list[tuple[str, str]]:
    """The classes after the first with their colours in masks, as CSS."""
    found = palette(len(names) + 1)
    return [(name, f"#{found[3 * number : 3 * number + 3].hex()}") for number, name in enumerate(names, 1)]


def duration(seconds: float) -> str:
    """A duration in words: 3725.0 -> '1 h 02 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def render(report: Report, overlays: bytes = b"") -> str:
    """The report as an HTML page: works offline, follows the reader's light or dark mode, escapes all text.

    overlays: a JPEG of test pictures under their masks, which the page then holds (edgekd.check.overlays).
    """
    environment = templates()
    environment.filters |= {"duration": duration, "milliseconds": milliseconds}
    environment.filters |= {"signed": signed, "further": further, "in_words": in_words, "time_by_kind": time_by_kind}
    rows, bar_start = class_rows(report)
    metric = ", ".join(filter(None, (report.student.metric, report.student.unit)))
    estimated = report.chosen.estimate
    return environment.get_template("report.html.j2").render(
        report=report,
        metric=metric,
        decided=max(deciding(report.devices), key=lambda pair: pair[1].p90_ms, default=None),
        plot=scatter(report),
        estimate=estimated,
        roofline=roofline(estimated) if estimated else None,
        not_drawn=left_out_of_plot(estimated) if estimated else (),
        trainings=[
            (title, drawn)
            for title, curves in (
                (chosen_temperature(report), temperatures(report)),
                ("Training", report.curves),
                ("Quantization-aware training", report.quantization_curves),
            )
            if (drawn := charts(curves, metric))
        ],
        sensitivity=sensitivity_rows(report),
        rows=rows[:CLASSES_SHOWN],
        more_rows=rows[CLASSES_SHOWN:],
        bar_start=bar_start,
        conditions=conditions(report),
        overlays=base64.b64encode(overlays).decode(),
        colours=colours(report.classes[1:]) if overlays else (),
        left=LEFT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        not_measured=NOT_MEASURED,
    )
