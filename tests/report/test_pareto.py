"""The plot of score against latency or size: an axis has figures of one origin, and bars on both axes."""

from __future__ import annotations

from edgekd.figures.figures import Estimate, Report
from edgekd.report.html import render
from edgekd.report.pareto import scatter


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


def test_labels_of_points_that_coincide_do_not(report: Report) -> None:
    twin = report.candidates[0].model_copy(update={"name": "fp16"})
    plot = scatter(report.model_copy(update={"candidates": (*report.candidates, twin)}))
    heights = [mark.label_y for mark in plot.marks if mark.name.startswith("fp")]

    assert abs(heights[0] - heights[1]) >= 16
