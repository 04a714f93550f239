"""model_card: a report as a model card in the form of the Hugging Face Hub: metadata in YAML, then Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator

from edgekd.figures.candidate import Candidate
from edgekd.figures.figures import Report
from edgekd.figures.words import NOT_MEASURED, metric_in, milliseconds, with_interval

PIPELINES = {
    ("image", "classify"): "image-classification",
    ("image", "segment"): "image-segmentation",
    ("audio", "classify"): "audio-classification",
    ("table", "classify"): "tabular-classification",
    ("table", "regress"): "tabular-regression",
}
"""Kind of the samples and of the answers -> the Hub's `pipeline_tag`. Others have none there."""


def model_card(report: Report) -> str:
    """The text of README.md. What edgekd cannot know, as the license and the intended use, is marked to fill in."""
    chosen = report.chosen
    return "\n".join(
        [
            *("---", *_metadata(report), "---", "", f"# {report.recipe} for {report.target_title}", ""),
            f"**{report.headline}**",
            "",
            f"`model.onnx` is {chosen.name}, {chosen.size_mb:.2f} MB, built by edgekd for `{report.target}`. `README.txt` says how to run it.",
            *("", "## Intended use", "", "To fill in: what the model is for, and what it is not for.", ""),
            *("## License", "", "To fill in: it follows from the license of the data and of the teacher.", ""),
            *(
                "## Training",
                "",
                "| | |",
                "|---|---|",
                *(f"| {_cell(name)} | {_cell(text)} |" for name, text in report.summary),
                "",
            ),
            *("## Evaluation", "", *_evaluation(report), ""),
            *(
                "## Limits",
                "",
                *([f"- {_cell(warning)}" for warning in report.warnings] or ["- none was found by edgekd's checks"]),
                "",
            ),
            f"Classes: {_cell(', '.join(report.classes))}",
            "",
        ]
    )


def _metadata(report: Report) -> Iterator[str]:
    """YAML, whose strings are written as JSON."""
    pipeline = PIPELINES.get((report.input, report.task))
    score = report.chosen.score
    yield "library_name: onnx"
    if pipeline:
        yield f"pipeline_tag: {pipeline}"
    tags = ["onnx", "edgekd", "knowledge-distillation", report.chosen.name, report.target]
    yield f"tags: {json.dumps(tags)}"
    yield "model-index:"
    yield f"- name: {json.dumps(report.recipe)}"
    yield "  results:"
    yield f"  - task: {{type: {pipeline or 'other'}}}"
    yield f"    dataset: {{name: {json.dumps(score.split + ' split')}, type: private}}"
    yield f"    metrics: [{{type: {json.dumps(score.metric)}, value: {score.value:g}}}]"


def _evaluation(report: Report) -> Iterator[str]:
    score = report.chosen.score
    yield f"{score.n} {score.split} samples, 95 % intervals, {score.runtime}."
    yield ""
    yield f"| model | {metric_in(score)} | MB | median, ms | origin of the ms |"
    yield "|---|---|---|---|---|"
    if report.teacher is not None:
        size = NOT_MEASURED if report.teacher_size_mb is None else f"{report.teacher_size_mb:.2f}"
        yield f"| teacher | {with_interval(report.teacher)} | {size} | - | - |"
    yield from (_row(candidate) for candidate in report.candidates)
    for check in report.checks:
        if check.verdict == "missed":
            yield ""
            yield f"Missed: {_cell(check.name)}: {_cell(check.found)}, limit {_cell(check.limit)}"


def _row(candidate: Candidate) -> str:
    name = f"**{candidate.name}**" if candidate.shipped else candidate.name
    latency = candidate.latency
    time = (
        (NOT_MEASURED, "-")
        if latency is None
        else (milliseconds(latency.p50_ms), f"{latency.origin}, {_cell(latency.machine)}")
    )
    return f"| {name} | {with_interval(candidate.score)} | {candidate.size_mb:.2f} | {time[0]} | {time[1]} |"


def _cell(text: str) -> str:
    """A text in one line, without what Markdown would take for a table, a link or HTML."""
    line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "|<>[]`*_" else letter for letter in line)
