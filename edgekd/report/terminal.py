"""render: writes a report for the terminal, readable in 80 columns."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgekd.figures.candidate import Candidate, Check
from edgekd.figures.figures import QuantizationStep, Report
from edgekd.figures.verdict import Answer
from edgekd.figures.words import (
    NOT_MEASURED,
    figure,
    latency_cells,
    megabytes,
    metric_in,
    origins,
    signed,
    with_interval,
)
from edgekd.report.on_device import table
from edgekd.report.roofline import in_words

STYLES = {"SHIP": "bold green", "NOT TO SHIP": "bold red", "NOT DECIDED": "bold yellow"}
VERDICT_STYLE = {"pass": "green", "missed": "bold red", "not measured": "yellow", "unstable": "yellow", "note": "dim"}


def render(report: Report, bundle: Path | None = None) -> RenderableType:
    """The figures with their origins, the checks, the taken model with the reason, the bundle's folder, and the verdict."""
    parts: list[RenderableType] = [
        Text.assemble((report.recipe, "bold"), " for ", (report.target_title, "bold"), f" ({report.target})"),
        Padding(figures(report), (1, 0)),
        what_shipped(report),
        *(
            [Padding(quantization(report.quantization_path, report.student.unit), (1, 0, 0, 0))]
            if report.quantization_path
            else []
        ),
        Padding(checks(report.checks), (1, 0)),
        *on_devices(report),
        *by_estimate(report),
        *(Text(f"warning: {warning}", style="yellow") for warning in report.warnings),
        where_measured(report),
    ]
    if bundle is not None:
        parts.append(Text.assemble("bundle: ", (str(bundle), "bold")))
    return Group(*parts, *answer(report, bundle))


def answer(report: Report, bundle: Path | None) -> list[RenderableType]:
    """Should it ship? The headline, the reasons and what is missing; last, because a terminal shows its last lines."""
    headline, *reasons = report.verdict.lines(*([str(bundle)] if bundle is not None else []))
    style = STYLES[report.verdict.answer]
    return [
        Padding(Text(headline, style=style), (1, 0, 0, 0)),
        *(Padding(Text(line.strip()), (0, 0, 0, 2)) for line in reasons),
    ]


def figures(report: Report) -> Table:
    """A row for the teacher and for each candidate: score with its interval, latency, size and origin."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column(metric_in(report.student), justify="right")
    table.add_column("p50 ms", justify="right")
    table.add_column("p90 ms", justify="right")
    table.add_column("MB", justify="right")
    table.add_column("origin")
    if report.teacher is not None:
        table.add_row(
            "teacher",
            with_interval(report.teacher),
            *latency_cells(report.teacher_latency),
            megabytes(report.teacher_size_mb),
            origins(report.teacher, report.teacher_latency),
        )
    for candidate in report.candidates:
        table.add_row(
            Text(("▸ " if candidate.shipped else "  ") + candidate.name),
            with_interval(candidate.score),
            *latency_cells(candidate.latency),
            megabytes(candidate.size_mb),
            origins(candidate.score, candidate.latency),
            style="bold" if candidate.shipped else "",
        )
    return table


def what_shipped(report: Report) -> Table:
    """A line for each candidate with the reason why it ships or lost."""
    lines = Table.grid(padding=(0, 1))
    lines.add_column(no_wrap=True)
    lines.add_column()
    for candidate in sorted(report.candidates, key=lambda c: not c.shipped):
        lines.add_row(verb(candidate, report.verdict.answer), Text(candidate.reason))
    for dropped in report.dropped:
        lines.add_row(Text(f"{dropped.name} was dropped:", style="yellow"), Text(dropped.reason))
    return lines


def verb(candidate: Candidate, answer: Answer) -> Text:
    if candidate.shipped:
        return Text(f"{candidate.name} {'ships' if answer == 'SHIP' else 'is taken'}:", style=STYLES[answer])
    return Text(f"{candidate.name} lost:", style="dim")


def on_devices(report: Report) -> list[RenderableType]:
    """The table of figures from `edgekd measure`; empty if no device was measured."""

    return [Padding(table(report.devices), (0, 0, 1, 0))] if report.devices else []


def by_estimate(report: Report) -> list[RenderableType]:
    """The estimated latency of the shipped model on the target, and the parts that the estimate leaves out."""

    found = report.chosen.estimate
    if found is None:
        return []
    left_out = f"; leaves out {'; '.join(found.leaves_out)}" if found.leaves_out else ""
    return [Text(f"estimate for the device: {in_words(found)} ({found.basis}){left_out}", style="dim")]


def quantization(path: tuple[QuantizationStep, ...], unit: str) -> Table:
    """A table of the ways to quantize that were tried, with a mark at the way taken."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("quantized by")
    table.add_column(f"hold-out {unit}".strip(), justify="right")
    table.add_column("to fp32", justify="right")
    table.add_column("max_drop_from_fp32")
    for step in path:
        table.add_row(
            Text(("▸ " if step.taken else "  ") + step.name), figure(step.holdout, unit), signed(-step.drop, unit),
            Text("holds", style="green") if step.holds else Text("missed", style="yellow"),
            style="bold" if step.taken else "",
        )  # fmt: skip
    return table


def checks(rows: tuple[Check, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("check")
    table.add_column("verdict", no_wrap=True)
    table.add_column("found")
    table.add_column("origin", no_wrap=True)
    for check in rows:
        verdict = Text(check.verdict, style=VERDICT_STYLE[check.verdict])
        found = f"{check.found}, limit {check.limit}" if check.limit else check.found
        origin = "-" if check.origin == NOT_MEASURED else check.origin
        table.add_row(Text(check.name), verdict, Text(found), origin)
    return table


def where_measured(report: Report) -> Text:
    """The conditions for all rows: runtime of the scores, machine of the latencies, meaning of the mark `~`."""
    text = Text(style="dim")
    chosen = report.chosen
    text.append(
        f"{chosen.score.metric}: {chosen.score.n} {chosen.score.split} samples, 95 % interval, {chosen.score.runtime}"
    )
    latency = chosen.latency
    if latency is None:
        text.append(f"\nlatency: {NOT_MEASURED}")
    else:
        threads = f"{latency.threads} thread{'s' if latency.threads > 1 else ''}"
        text.append(f"\nlatency: {latency.origin}, {latency.machine}, {latency.runtime}, batch {latency.batch_size}, ")
        text.append(f"{threads}, n {latency.n}")
        if report.runtime == "tensorrt" and latency.origin == "host":
            text.append("; these milliseconds are no sign of the device, whose runtime is TensorRT")
    if any(c.latency is not None and not c.latency.stable for c in report.candidates):
        text.append("\n~ the machine was not stable: block medians more than 5 % apart")
    return text
