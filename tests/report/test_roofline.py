"""An estimate's drawing: every kernel lies on or under the roof, no figure is lost, and the page says `estimate`."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from edgekd.report.html import render
from edgekd.report.model import Estimate, KernelTime, Report
from edgekd.report.roofline import in_words, roofline, svg, time_by_kind
from edgekd.report.terminal import by_estimate

BANDWIDTH_GBS, PEAK_GOPS = 100.0, 5000.0


def kernel(name: str, kind: str, operations: int, moved: int) -> KernelTime:
    ms = max(operations / (PEAK_GOPS * 1e6), moved / (BANDWIDTH_GBS * 1e6))
    return KernelTime(name=name, kind=kind, precision="int8", operations=operations, bytes=moved, ms=ms)


@pytest.fixture
def estimate() -> Estimate:
    kernels = (
        kernel("<first>", "conv", 10**9, 10**6),  # 1000 operations a byte: by the peak
        kernel("second", "depthwise", 10**7, 10**7),  # one operation a byte: by the bandwidth
        kernel("third", "move", 0, 10**6),
    )
    return Estimate(
        device="box", basis="profile", low_ms=0.31, high_ms=None, leaves_out=("much",), kernels=kernels,
        peaks_gops={"int8": PEAK_GOPS, "fp16": 10**6}, bandwidth_gbs=BANDWIDTH_GBS,
    )  # fmt: skip


def test_kernels_lie_on_the_roof_that_limits_them(estimate: Estimate) -> None:
    plot = roofline(estimate)
    assert plot is not None and len(plot.dots) == 2 and len(plot.roofs) == 1
    by_peak, by_bandwidth = plot.dots
    assert (by_peak.x, by_peak.y) == (plot.x(1000), plot.y(PEAK_GOPS))
    assert (by_bandwidth.x, by_bandwidth.y) == (plot.x(1), plot.y(BANDWIDTH_GBS))
    corners = [tuple(map(float, corner.split(","))) for corner in plot.roofs[0].points.split()]
    assert corners[1] == (plot.x(PEAK_GOPS / BANDWIDTH_GBS), plot.y(PEAK_GOPS))


def test_a_kernels_area_is_its_share_of_the_time(estimate: Estimate) -> None:
    plot = roofline(estimate)
    assert plot is not None
    by_peak, by_bandwidth = plot.dots
    assert (by_peak.radius - 3) / (by_bandwidth.radius - 3) == pytest.approx(math.sqrt(0.2 / 0.1), rel=0.02)


def test_the_drawing_alone_is_well_formed_and_escaped(estimate: Estimate) -> None:
    root = ElementTree.fromstring(svg(estimate))
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "<first>" not in svg(estimate)
    assert svg(estimate.model_copy(update={"kernels": estimate.kernels[2:]})) == ""


def test_times_are_summed_by_kind_the_longest_first(estimate: Estimate) -> None:
    assert [(name, number) for name, number, _, _ in time_by_kind(estimate)] == [
        ("conv int8", 1), ("depthwise int8", 1), ("move int8", 1),
    ]  # fmt: skip
    assert sum(share for _, _, _, share in time_by_kind(estimate)) == pytest.approx(1)


def test_a_range_reads_as_one(estimate: Estimate) -> None:
    assert in_words(estimate) == "at least 0.310 ms"
    assert in_words(estimate.model_copy(update={"high_ms": 3.1})) == "0.310 to 3.10 ms"


def test_the_report_shows_the_estimate_of_what_ships_and_marks_it(report: Report, estimate: Estimate) -> None:
    candidates = tuple(c.model_copy(update={"estimate": estimate if c.shipped else None}) for c in report.candidates)
    estimated = report.model_copy(update={"candidates": candidates})

    page = render(estimated)
    section = page[page.index("Estimate for the device") :]
    assert (
        "at least 0.310 ms" in section
        and '<span class="pill">estimate</span>' in section
        and "Leaves out much" in section
    )
    assert section.count("dot-kernel") == 2 + 2  # and the legend
    assert "estimate for the device: at least 0.310 ms" in str(by_estimate(estimated)[0])
    assert "Estimate for the device" not in render(report) and by_estimate(report) == []
