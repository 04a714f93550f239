"""A comparison of bundles for the terminal and as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgekd.figures.comparison import ComparedBundle, Comparison, ScoreDifference
from edgekd.figures.words import beside, between, latency_cells, megabytes, metric_in, with_interval
from edgekd.report.templates import templates

Row = tuple[str, ...]


def render_comparison(comparison: Comparison) -> RenderableType:
    """The bundles by letters, their figures in columns, and what differs in the recipes."""
    parts: list[RenderableType] = [
        Text(f"{letter}: {bundle.folder} ({bundle.recipe} for {bundle.target})")
        for letter, bundle in zip(letters(comparison), comparison.bundles, strict=True)
    ]
    parts += [Text(), _table(("", *letters(comparison)), figures(comparison)), Text()]
    if comparison.recipes:
        rows = [(each.key, *(value or "-" for value in each.values)) for each in comparison.recipes]
        parts += [_table(("differs in the recipe", *letters(comparison)), rows), Text()]
    parts += [Text(f"note: {note}", style="yellow") for note in comparison.notes]
    return Group(*parts)


def page(comparison: Comparison) -> str:
    """One HTML file without links to others."""
    return templates().get_template("comparison.html.j2").render(
        comparison=comparison, letters=letters(comparison), figures=list(figures(comparison))
    )  # fmt: skip


def letters(comparison: Comparison) -> list[str]:
    """A, B, ..., Z, then numbers."""
    return [chr(ord("A") + n) if n < 26 else str(n + 1) for n in range(len(comparison.bundles))]


def figures(comparison: Comparison) -> Iterator[Row]:
    """The rows of the table of figures: a name, then a cell for each bundle."""
    bundles = comparison.bundles
    yield "answer", *(bundle.headline.partition(":")[0] for bundle in bundles)
    yield "ships", *(bundle.model for bundle in bundles)
    metrics = {metric_in(bundle.score) for bundle in bundles}
    yield metrics.pop() if len(metrics) == 1 else "score", *map(_score, bundles)
    yield "beside A", "", *(_difference(each, comparison) for each in comparison.differences)
    yield "p50 ms, host", *(latency_cells(bundle.latency)[0] for bundle in bundles)
    for device in dict.fromkeys(there.device for bundle in bundles for there in bundle.devices):
        yield f"p50 ms, {device}", *(_there(bundle, device) for bundle in bundles)
    yield "MB", *(megabytes(bundle.size_mb) for bundle in bundles)


def _score(bundle: ComparedBundle) -> str:
    return f"{with_interval(bundle.score)} (n {bundle.score.n})"


def _there(bundle: ComparedBundle, device: str) -> str:
    found = [latency_cells(there.latency)[0] for there in bundle.devices if there.device == device]
    return ", ".join(found) or "not measured"


def _difference(difference: ScoreDifference, comparison: Comparison) -> str:
    """'1.20 points worse (95 %: 0.30 to 2.10)', or why there is no interval."""
    unit = comparison.bundles[0].score.unit
    if difference.low is None or difference.high is None:
        return f"{beside(difference.value, unit)}; not paired: {difference.why_not_paired}"
    clear = "" if difference.low > 0 or difference.high < 0 else "; no clear difference"
    return f"{beside(difference.value, unit)} (95 %: {between(difference.low, difference.high, unit)}){clear}"


def _table(heads: Row, rows: Iterator[Row] | list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
