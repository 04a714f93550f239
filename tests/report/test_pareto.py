"""The plot of score against latency or size: an axis has figures of one origin, and bars on both axes."""

from __future__ import annotations

import pytest

from edgekd.figures.candidate import Estimate
from edgekd.figures.figures import Report
from edgekd.report.html import render
from edgekd.report.pareto import NARROW, WIDE, Frame, conditions, scatter


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
    one, other = (mark.label.box() for mark in plot.marks if mark.name.startswith("fp"))

    assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_range_without_an_upper_end_goes_to_the_edge_with_an_arrow(report: Report) -> None:
    open_end = ranged(0.02).model_copy(update={"high_ms": None})
    about = {"order_ms": 0.01, "order_origin": "estimate"}
    ranges = {"int8": ranged(0.01), "fp32": open_end}
    changed = tuple(c.model_copy(update={**about, "estimate": ranges[c.name]}) for c in report.candidates)
    estimated = report.model_copy(update={"candidates": changed})
    plot = scatter(estimated)
    marks = {mark.name: mark for mark in plot.marks}
    assert plot.x is not None and marks["fp32"].open_end and not marks["int8"].open_end
    assert (marks["fp32"].x_low, marks["fp32"].x_high) == (plot.x(0.02), plot.x.end_px)
    assert "at least 0.0200 ms (estimate)" in marks["fp32"].title
    assert "of an estimate its whole range" in render(estimated)


def test_a_host_s_time_is_on_no_axis_of_a_device_s(report: Report) -> None:
    """The candidates were timed on the device, the teacher here: it stands apart, and no caption mixes both."""
    changed = []
    for candidate in report.candidates:
        assert candidate.latency is not None
        there = candidate.latency.model_copy(update={"origin": "device", "machine": "a board"})
        changed.append(candidate.model_copy(update={"latency": there, "order_origin": "device"}))
    mixed = report.model_copy(update={"candidates": tuple(changed), "teacher_latency": report.candidates[0].latency})
    plot = scatter(mixed)
    teacher = next(mark for mark in plot.marks if mark.name == "teacher")
    assert plot.x is not None and teacher.x > plot.x.end_px and plot.title.startswith("median on the device")
    assert conditions(mixed) == ["device: a board; rt 1.0; batch 1, 1 thread"]


def test_an_axis_that_does_not_begin_at_0_says_so(report: Report) -> None:
    """The lowest interval ends at 89.91, the highest at 95.11; 12 % of that range lie below: 89.29."""
    assert scatter(report).note == "The vertical axis begins at 89.29 %, not at 0."


@pytest.mark.parametrize("frame", [WIDE, NARROW])
def test_everything_lies_within_the_frame(report: Report, frame: Frame) -> None:
    plot = scatter(report.model_copy(update={"teacher_latency": report.candidates[0].latency}), frame)
    for mark in plot.marks:
        assert frame.left <= mark.x_low <= mark.x_high <= frame.width - frame.right
        assert frame.top <= mark.y_high <= mark.y_low <= frame.height - frame.bottom
        left, top, right, bottom = mark.label.box()
        assert 0 <= left < right <= frame.width and 0 <= top < bottom <= frame.height
