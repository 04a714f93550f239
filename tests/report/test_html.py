"""The page is one file that loads nothing, escapes everything and hides nothing that was not measured."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from edgekd.figures.candidate import Check, Estimate, Score
from edgekd.figures.figures import LayerSensitivity, QuantizationStep, Report
from edgekd.report.axes import Axis, linear_ticks, log_ticks
from edgekd.report.html import class_rows, duration, render, scatter

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


def test_an_untimed_model_stands_apart_from_the_timed(report: Report) -> None:
    plot = scatter(report)
    marks = {mark.name: mark for mark in plot.marks}

    assert plot.x is not None
    assert marks["teacher"].x > plot.x.end_px > marks["fp32"].x > marks["int8"].x
    assert marks["teacher"].y < marks["fp32"].y < marks["int8"].y


def test_a_timed_teacher_is_drawn_at_its_latency(report: Report) -> None:
    plot = scatter(report.model_copy(update={"teacher_latency": report.candidates[0].latency}))

    assert plot.gutter_x is None
    assert {mark.name for mark in plot.marks} == {"teacher", "fp32", "int8"}


def ranged(low_ms: float) -> Estimate:
    return Estimate(
        device="d", basis="b", low_ms=low_ms, high_ms=2 * low_ms, kernels=(), peaks_gops={}, bandwidth_gbs=1.0
    )


def test_where_an_estimate_decided_the_plot_shows_its_range_and_not_this_machine_s_milliseconds(report: Report) -> None:
    """int8 is slower on this machine and ships by the device's profile: it stands at the left."""
    slower = report.candidates[0].latency
    assert slower is not None
    ranges = {"int8": ranged(0.01), "fp32": ranged(0.04)}
    about = {"latency": slower, "order_ms": 0.01, "order_origin": "estimate"}
    changed = tuple(c.model_copy(update={**about, "estimate": ranges[c.name]}) for c in report.candidates)
    plot = scatter(report.model_copy(update={"candidates": changed, "teacher_latency": slower}))
    marks = {mark.name: mark for mark in plot.marks}

    assert plot.title.startswith(f"estimated latency on {report.target_title}") and plot.x is not None
    assert marks["int8"].x < marks["fp32"].x and marks["int8"].title.endswith("0.0100 to 0.0200 ms (estimate)")
    assert (marks["int8"].x_low, marks["int8"].x_high) == (plot.x(0.01), plot.x(0.02))
    assert marks["teacher"].x > plot.x.end_px  # nothing estimated it


def test_where_no_order_in_time_is_known_the_plot_shows_sizes_and_no_milliseconds(report: Report) -> None:
    """What the host measured is on the table, and nothing on the plot looks like the device's time."""
    about = {"order_ms": None, "order_origin": "not measured", "estimate": ranged(0.01)}
    unknown = report.model_copy(update={"candidates": tuple(c.model_copy(update=about) for c in report.candidates)})
    plot = scatter(unknown)
    marks = {mark.name: mark for mark in plot.marks}

    assert plot.heading == "Top-1 against size" and plot.x is not None and plot.title.startswith("size of the file, MB")
    assert [marks[name].x for name in ("int8", "fp32", "teacher")] == [plot.x(0.1), plot.x(0.31), plot.x(14.9)]
    assert "Top-1 against size" in render(unknown) and "Latency, host" not in render(unknown)


def test_the_page_begins_with_the_verdict_its_reasons_and_what_is_missing(report: Report) -> None:
    missed = Check(name="size_mb", verdict="missed", found="0.310 MB", limit="at most 0.05")
    page = Page(render(report.model_copy(update={"checks": (missed, *report.checks)})))
    assert "NOT TO SHIP: 1 check missed (size_mb)" in page.text and "size_mb: 0.310 MB, limit at most 0.05" in page.text
    assert "NOT DECIDED" not in page.text and "Missing for an answer" not in page.text

    page = Page(render(report))
    assert "NOT DECIDED: no budget of accuracy or latency is set and latency on the device is not measured" in page.text
    assert "set budget.p90_latency_ms in the recipe" in page.text and "SHIP:" not in page.text


def test_labels_of_points_that_coincide_do_not(report: Report) -> None:
    twin = report.candidates[0].model_copy(update={"name": "fp16"})
    plot = scatter(report.model_copy(update={"candidates": (*report.candidates, twin)}))
    heights = [mark.label_y for mark in plot.marks if mark.name.startswith("fp")]

    assert abs(heights[0] - heights[1]) >= 16


def test_every_drawing_is_well_formed(report: Report) -> None:
    drawings = re.findall(r"<svg.*?</svg>", render(report), re.DOTALL)

    assert len(drawings) == 4  # accuracy against latency; hold-out accuracy, loss, learning rate
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_a_report_without_curves_classes_and_stages_is_rendered(report: Report) -> None:
    accuracies = {"score": report.teacher.model_copy(update={"parts": {}})}
    candidates = tuple(c.model_copy(update=accuracies) for c in report.candidates)
    empty = {"curves": (), "stages": (), "warnings": (), "checks": (), "candidates": candidates}

    assert "Top-1 by class" not in render(report.model_copy(update=empty))


def test_without_a_teacher_the_weakest_classes_come_first(report: Report) -> None:
    alone = report.model_copy(update={"teacher": None, "teacher_latency": None})
    rows, _ = class_rows(alone)
    assert [row.shipped for row in rows] == sorted(row.shipped for row in rows) and len(rows) == 3
    assert all(row.teacher is None and row.change is None for row in rows)
    assert [row.change for row in class_rows(report)[0]] == sorted(row.change for row in class_rows(report)[0])
    assert "less changed" not in render(alone)


def test_a_loss_that_became_infinite_is_left_out_of_the_curve(report: Report) -> None:
    curves = (*report.curves, {"epoch": 3.0, "loss": float("nan"), "holdout": 10.0})

    html = render(report.model_copy(update={"curves": curves}))

    assert "nan" not in html


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (89.9, 95.2, [90, 92, 94]),
        (0.0, 0.01, [0, 0.002, 0.004, 0.006, 0.008, 0.01]),
    ],
)
def test_linear_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert linear_ticks(low, high) == pytest.approx(ticks)


def test_log_ticks_are_one_two_and_five() -> None:
    assert log_ticks(0.3, 6) == pytest.approx([0.5, 1, 2, 5])


def test_a_logarithmic_axis_maps_factors_to_distances() -> None:
    axis = Axis(1, 100, 0, 200, logarithmic=True)

    assert (axis(1), axis(10), axis(100)) == (0, 100, 200)


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (90.0, "2 min"), (3725.0, "1 h 02 min")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_first_figure_of_a_device_is_not_the_hosts(report: Report) -> None:
    page = render(report)
    tile = page[page.index("latency on the device, median") :][:300]
    assert "not measured" in tile and "0.410 ms on the host" in tile


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


def test_the_way_to_int8_is_told_with_a_bar_for_each_layer(report: Report) -> None:
    assert "How it was quantized" not in render(report)
    html = render(with_path(report))
    page = Page(html)
    assert "ptq, refined, 1 layer in float" in page.text and "89.90" in page.text and "taken" in page.text
    assert NASTY not in html and html.count('height="14"') == 3
    widths = [float(found) for found in re.findall(r'width="([\d.]+)" height="14"', html)]
    assert widths[0] > widths[1] > widths[2] == 1


def test_a_sensitivity_of_zero_alone_is_drawn(report: Report) -> None:
    flat = (LayerSensitivity(layer="fc", divergence=0.0, share=100.0, in_float=False),)
    assert render(with_path(report).model_copy(update={"sensitivity": flat})).count('height="14"') == 1


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
