"""The page is one file that loads nothing, escapes everything and hides nothing that was not measured."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from edgekd.figures.candidate import Check, Score
from edgekd.figures.figures import LayerSensitivity, QuantizationStep, Report
from edgekd.report.axes import Axis
from edgekd.report.html import duration, render
from edgekd.report.pareto import scatter

NASTY = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Collects tags, attributes and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_the_page_loads_nothing(report: Report) -> None:
    html = render(report)
    page = Page(html)

    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [a for a in page.attributes if a[0] in {"src", "href", "xlink:href"}]
    assert "url(" not in html and "@import" not in html


def test_a_class_name_cannot_become_markup(report: Report) -> None:
    html = render(report)

    assert NASTY not in html
    assert NASTY in Page(html).text


def test_each_table_and_figure_is_there(report: Report) -> None:
    text = Page(render(report)).text

    for part in ("90.41", "94.61", "0.410", "fastest within the budget", "77e0", "1.31.1", "78,042", "0.44 points"):
        assert part in text


def test_what_was_not_measured_says_so(report: Report) -> None:
    untimed = tuple(c.model_copy(update={"latency": None}) for c in report.candidates)

    html = render(report.model_copy(update={"candidates": untimed}))

    assert Page(html).text.count("not measured") >= 4  # three rows of the table, the tile and the column of the plot
    assert scatter(report.model_copy(update={"candidates": untimed})).x is None


def test_the_page_begins_with_the_verdict_its_reasons_and_what_is_missing(report: Report) -> None:
    missed = Check(name="size_mb", verdict="missed", found="0.310 MB", limit="at most 0.05")
    page = Page(render(report.model_copy(update={"checks": (missed, *report.checks)})))
    assert "NOT TO SHIP: 1 check missed (size_mb)" in page.text and "size_mb: 0.310 MB, limit at most 0.05" in page.text
    assert "NOT DECIDED" not in page.text and "Missing for an answer" not in page.text

    page = Page(render(report))
    assert "NOT DECIDED: no budget of accuracy or latency is set and latency on the device is not measured" in page.text
    assert "set budget.p90_latency_ms in the recipe" in page.text and "SHIP:" not in page.text


def test_every_drawing_is_well_formed(report: Report) -> None:
    drawings = re.findall(r"<svg.*?</svg>", render(report), re.DOTALL)

    assert len(drawings) == 5  # accuracy against latency, wide and narrow; hold-out accuracy, loss, learning rate
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_a_report_without_curves_classes_and_stages_is_rendered(report: Report) -> None:
    accuracies = {"score": report.teacher.model_copy(update={"parts": {}})}
    candidates = tuple(c.model_copy(update=accuracies) for c in report.candidates)
    empty = {"curves": (), "stages": (), "warnings": (), "checks": (), "candidates": candidates}

    assert "Top-1 by class" not in render(report.model_copy(update=empty))


def test_a_loss_that_became_infinite_is_left_out_of_the_curve(report: Report) -> None:
    curves = (*report.curves, {"epoch": 3.0, "loss": float("nan"), "holdout": 10.0})

    html = render(report.model_copy(update={"curves": curves}))

    assert "nan" not in html


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (90.0, "2 min"), (3725.0, "1 h 02 min")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def tiles(page: str) -> list[str]:
    return re.findall(r'<div class="tile">.*?</div>', page, re.DOTALL)


def test_the_first_figure_of_a_device_is_not_the_hosts(report: Report) -> None:
    found = tiles(render(report))
    (on_device,) = (tile for tile in found if "latency on the device" in tile)
    (here,) = (tile for tile in found if "latency on this machine" in tile)
    assert "not measured" in on_device and "0.410" not in on_device
    assert "0.410 ms" in here and "host" in here


def test_times_of_another_runtime_are_folded_away_and_called_no_sign_of_the_device(report: Report) -> None:
    """int8 for TensorRT is slow in the host's onnxruntime: nothing on the open page shows that as a figure."""
    page = render(report.model_copy(update={"runtime": "tensorrt", "target_title": "a Jetson"}))
    opened = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    section = page[page.index("<h2>Latency on this machine</h2>") :].partition("</section>")[0]
    assert "This is no sign of a Jetson" in section and "0.920" in section
    assert "0.920" not in opened and "0.410" not in opened
    assert "This is no sign" not in render(report.model_copy(update={"runtime": "onnxruntime"}))


def test_latencies_of_host_and_device_stand_in_tables_of_their_own(report: Report) -> None:
    first, second = report.candidates
    assert first.latency is not None
    there = first.latency.model_copy(update={"p50_ms": 7.77, "origin": "device"})
    mixed = report.model_copy(update={"candidates": (first.model_copy(update={"latency": there}), second)})
    tables = [table for table in re.findall(r"<table.*?</table>", render(mixed), re.DOTALL) if "p50, ms" in table]
    assert [("7.77" in table, "0.410" in table) for table in tables] == [(True, False), (False, True)]


def test_epochs_are_whole_and_both_trainings_are_drawn(report: Report) -> None:
    page = render(report.model_copy(update={"quantization_curves": report.curves}))
    assert "Quantization-aware training" in page and "Quantization-aware training" not in render(report)
    assert [text for _, text in Axis(1, 2, 0, 100, whole=True).ticks] == ["1", "2"]


def with_path(report: Report) -> Report:
    steps = [("ptq", (), 88.0, 2.0, False, False), ("ptq, refined, 1 layer in float", (NASTY,), 89.9, 0.1, True, True)]
    path = tuple(
        QuantizationStep(name=n, in_float=f, holdout=t, drop=d, holds=h, taken=k, seconds=3.0)
        for n, f, t, d, h, k in steps
    )
    table = tuple(
        LayerSensitivity(layer=name, divergence=value, share=20.0, in_float=name == NASTY)
        for name, value in ((NASTY, 1e-2), ("conv2", 1e-4), ("fc", 0.0))
    )
    return report.model_copy(update={"quantization_path": path, "sensitivity": table})


def bars(html: str) -> list[float]:
    """The widths of the sensitivities' bars, in percent."""
    section = html[html.index("Sensitivity of the layers") :].partition("</section>")[0]
    return [float(found) for found in re.findall(r'class="size[^"]*" style="width:([\d.]+)%"', section)]


def test_the_way_to_int8_is_told_with_a_bar_for_each_layer(report: Report) -> None:
    assert "How it was quantized" not in render(report)
    html = render(with_path(report))
    page = Page(html)
    assert "ptq, refined, 1 layer in float" in page.text and "89.90" in page.text and "taken" in page.text
    widths = bars(html)
    assert NASTY not in html and len(widths) == 3
    assert widths[0] > widths[1] > widths[2] == 0


def test_a_sensitivity_of_zero_alone_is_drawn(report: Report) -> None:
    flat = (LayerSensitivity(layer="fc", divergence=0.0, share=100.0, in_float=False),)
    assert bars(render(with_path(report).model_copy(update={"sensitivity": flat}))) == [0]


def test_where_less_is_better_the_plot_says_so(report: Report) -> None:
    def turned(score: Score) -> Score:
        return score.model_copy(update={"metric": "error", "unit": "", "better": "lower"})

    candidates = tuple(c.model_copy(update={"score": turned(c.score)}) for c in report.candidates)
    assert report.teacher is not None
    page = render(
        report.model_copy(
            update={"student": turned(report.student), "teacher": turned(report.teacher), "candidates": candidates}
        )
    )
    assert "Down and left is better" in page and "lower is better" in page and "Error by class" in page
    assert "Up and left is better" in render(report)


def test_the_page_names_the_models_of_the_recipe(report: Report) -> None:
    summary = (("teacher", "timm:resnet18"), ("student", "edgekd:resnet8 (width 8)"))
    told = "edgekd:resnet8 (width 8), taught by timm:resnet18"
    assert told in render(report.model_copy(update={"summary": summary}))
    alone = (("teacher", "none"), ("student", "edgekd:resnet8"))
    assert "taught by" not in render(report.model_copy(update={"summary": alone, "teacher": None}))
