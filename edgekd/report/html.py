"""render: writes a report as a single HTML file that loads no other file. report.html.j2 draws charts as SVG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.figures import thumbnails
from edgekd.figures.candidate import Latency, Origin
from edgekd.figures.devices import deciding
from edgekd.figures.figures import Report
from edgekd.figures.words import NOT_MEASURED, begun, figure, milliseconds, signed
from edgekd.report.axes import Axis
from edgekd.report.classes import class_rows, matrix, other_figures
from edgekd.report.curves import Chart, charts, chosen_temperature, temperatures
from edgekd.report.fit import fit_plots
from edgekd.report.on_device import further
from edgekd.report.pareto import NARROW, WIDE, conditions, described, scatter
from edgekd.report.ranges import in_short, ranges
from edgekd.report.roofline import FRAMES, in_words, left_out_of_plot, roofline, time_by_kind
from edgekd.report.templates import templates
from edgekd.scripts.run import palette

CLASSES_SHOWN = 30
MOST_CLASSES = 500  # rows; report.json has all
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


def by_origin(report: Report) -> list[tuple[Origin, list[tuple[str, Latency]]]]:
    """The models' latencies, a list for each origin: figures of host and device never share a table."""
    timed = [("teacher", report.teacher_latency), *((c.name, c.latency) for c in report.candidates)]
    found: dict[Origin, list[tuple[str, Latency]]] = {}
    for name, latency in timed:
        if latency is not None:
            found.setdefault(latency.origin, []).append((name, latency))
    return list(found.items())


def trainings(report: Report, metric: str) -> list[tuple[str, list[Chart]]]:
    """The titles and charts of the trainings, without those that have no curve."""
    unit = report.student.unit
    found = [
        (chosen_temperature(report), temperatures(report, metric)),
        ("Training", charts(report.curves, metric, unit)),
        ("Quantization-aware training", charts(report.quantization_curves, metric, unit)),
    ]
    return [(title, drawn) for title, drawn in found if drawn]


def sizes(report: Report) -> dict[str, float]:
    """The size of each model in percent of the largest, for bars that begin at 0."""
    known = {c.name: c.size_mb for c in report.candidates}
    if report.teacher is not None and report.teacher_size_mb is not None:
        known["teacher"] = report.teacher_size_mb
    largest = max(known.values()) or 1.0
    return {name: round(100 * size / largest, 1) for name, size in known.items()}


@dataclass(frozen=True)
class Models:
    """The references of the models in the recipe. Empty for a report of an earlier edgekd, and without a teacher."""

    student: str
    teacher: str

    @property
    def line(self) -> str:
        """'student edgekd:resnet8 (width 8), taught by edgekd:resnet8 (width 32)'."""
        return (
            f"student {self.student}, taught by {self.teacher}"
            if self.teacher
            else f"student {self.student}, without a teacher"
        )


def models(report: Report) -> Models:
    """The models that the recipe's summary names."""
    teachers = [how for what, how in report.summary if what == "teacher" and how != "none"]
    return Models(next((how for what, how in report.summary if what == "student"), ""), " and ".join(teachers))


def encoded(jpeg: bytes) -> str:
    return base64.b64encode(jpeg).decode()


def render(report: Report, overlays: bytes = b"", mistaken: bytes = b"") -> str:
    """The report as an HTML page: works offline, follows the reader's light or dark mode, escapes all text.

    overlays: a JPEG of test pictures under their masks (edgekd.check.overlays); mistaken: one of the pictures that the model
    gets wrong (edgekd.check.mistaken). The page then holds them.
    """
    environment = templates()
    environment.filters |= {"duration": duration, "milliseconds": milliseconds, "described": described, "begun": begun}
    environment.filters |= {"signed": signed, "further": further, "in_words": in_words, "in_short": in_short}
    environment.filters |= {"time_by_kind": time_by_kind, "figure": figure}
    rows, bar_start = class_rows(report)
    metric = ", ".join(filter(None, (report.student.metric, report.student.unit)))
    estimate = report.chosen.estimate
    return environment.get_template("report.html.j2").render(
        report=report,
        metric=metric,
        models=models(report),
        decided=max(deciding(report.devices), key=lambda pair: pair[1].p90_ms, default=None),
        plots=(("wide", scatter(report, WIDE)), ("narrow", scatter(report, NARROW))),
        conditions=conditions(report),
        timed=by_origin(report),
        sizes=sizes(report),
        estimate=estimate,
        ranges=ranges(report),
        rooflines=[(kind, drawn) for kind, frame in FRAMES if estimate and (drawn := roofline(estimate, *frame))],
        not_drawn=left_out_of_plot(estimate) if estimate else (),
        trainings=trainings(report, metric),
        sensitivity=sensitivity_rows(report),
        rows=rows[:CLASSES_SHOWN],
        more_rows=rows[CLASSES_SHOWN:MOST_CLASSES],
        left_out=len(rows[MOST_CLASSES:]),
        bar_start=bar_start,
        fits=list(fit_plots(report)),
        intervals=any(found.shipped for found in report.by_class),
        others=other_figures(report),
        matrix=matrix(report),
        overlays=encoded(overlays),
        colours=colours(report.classes[1:]) if overlays else (),
        mistaken=encoded(mistaken),
        sheet=thumbnails.size(len(report.mistakes)),
        thumbnail=thumbnails.at,
        side=thumbnails.SIDE,
        not_measured=NOT_MEASURED,
    )
