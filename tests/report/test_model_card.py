"""The model card: what the Hub's own reader makes of it."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from edgekd.figures.figures import Report
from edgekd.report.model_card import model_card


def test_the_hub_s_reader_finds_task_tags_and_the_score(report: Report) -> None:
    data = ModelCard(model_card(report)).data
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("onnx", "image-classification", "cifar10-small")
    assert {"onnx", "int8", "edge-box"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("top-1", 90.41)


@pytest.mark.parametrize(
    ("input", "task", "pipeline"),
    [
        ("audio", "classify", "audio-classification"),
        ("table", "regress", "tabular-regression"),
        ("audio", "regress", None),
    ],
)
def test_the_pipeline_is_that_of_the_kind(input: str, task: str, pipeline: str | None, report: Report) -> None:
    assert ModelCard(model_card(report.model_copy(update={"input": input, "task": task}))).data.pipeline_tag == pipeline


def test_the_card_says_whether_to_ship_and_what_is_to_fill_in(report: Report) -> None:
    text = model_card(report)
    assert "**NOT DECIDED: no budget of accuracy or latency is set" in text
    assert text.count("To fill in:") == 2
    assert (
        "| **int8** | 90.41 ±0.50 | 0.10 | 0.410 | host, Example CPU" in text
        and "| teacher | 94.61 ±0.50 | 14.90 |" in text
    )


def test_a_name_cannot_write_html_or_leave_its_line(report: Report) -> None:
    """The report's third class is a script; a recipe's name may hold quotes."""
    named = report.model_copy(update={"recipe": 'a "quoted": name', "warnings": ("one\n# two | three",)})
    text = model_card(named)
    assert "<script>" not in text and "- one # two \\| three" in text
    assert ModelCard(text).data.model_name == 'a "quoted": name'
