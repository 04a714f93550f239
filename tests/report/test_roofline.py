"""An estimate's drawing: every kernel lies on or under the roof, no figure is lost, and the page says `estimate`."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import onnx
import pytest

from edgekd.figures.candidate import Estimate, KernelTime
from edgekd.figures.figures import Report
from edgekd.measure.estimate.estimate import estimate as estimate_of
from edgekd.report.axes import Axis
from edgekd.report.html import render
from edgekd.report.roofline import in_words, left_out_of_plot, roofline, svg, time_by_kind
from edgekd.report.terminal import by_estimate
from edgekd.target import list_targets

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


def test_a_low_end_without_the_starts_of_the_kernels_is_no_time_that_a_device_takes(estimate: Estimate) -> None:
    left_out = estimate.model_copy(update={"low_ms": 0.000475, "high_ms": 0.365, "starts_left_out": 18})
    assert in_words(left_out) == ("more than 0.000475 ms without launch time (18 kernels), at most 0.365 ms")


def test_a_format_without_a_peak_has_no_roof_and_is_not_drawn(estimate: Estimate) -> None:
    """A convolution in fp32 that the bandwidth alone bounds would stand at 1,100 GFLOP/s on cores that do 154."""
    unbounded = estimate.kernels[0].model_copy(update={"precision": "fp32", "ms": 10**6 / (BANDWIDTH_GBS * 1e6)})
    plot = roofline(estimate.model_copy(update={"kernels": (unbounded, *estimate.kernels)}))
    assert plot is not None and len(plot.dots) == 2
    assert plot.left_out == ("1 kernel: the profile states no peak for fp32, so nothing bounds their arithmetic",)
    alone = estimate.model_copy(update={"kernels": (unbounded,)})
    assert roofline(alone) is None and svg(alone) == "" and left_out_of_plot(alone) == plot.left_out


def test_a_kernel_above_its_roof_is_not_drawn(estimate: Estimate) -> None:
    impossible = estimate.kernels[0].model_copy(update={"ms": estimate.kernels[0].ms / 2})
    plot = roofline(estimate.model_copy(update={"kernels": (impossible, *estimate.kernels)}))
    assert plot is not None and len(plot.dots) == 2 and "above what the profile allows" in plot.left_out[0]


GRAPHS = {
    "fp32": "y = Conv<pads = [1, 1, 1, 1]>(x, w)",
    "fp16": "h = Cast<to = 10>(x) v = Cast<to = 10>(w) c = Conv<pads = [1, 1, 1, 1]>(h, v) y = Cast<to = 1>(c)",
    "int8": """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) wq = QuantizeLinear(w, s, z) wd = DequantizeLinear(wq, s, z)
        c = Conv<pads = [1, 1, 1, 1]>(d, wd) r = Relu(c) y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r)""",
    "pool": "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)",
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_on_no_shipped_target_does_a_point_lie_above_the_roof_of_that_target(graph: str, tmp_path: Path) -> None:
    """The roof is taken from the target's file; a format without a figure there has no point."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "net (float[1, 64, 32, 32] x) => (float[1, 64, 32, 32] y) "
        f"<float s = {{0.1}}, int8 z = {{0}}, float[64, 64, 3, 3] w = {{{', '.join(['1'] * 64 * 64 * 9)}}}> {{ {GRAPHS[graph]} }}"
    )
    onnx.save(model, tmp_path / "m.onnx")
    for target in list_targets():
        hardware, found = target.hardware, estimate_of(tmp_path / "m.onnx", target)
        if found is None:
            assert hardware.memory_bandwidth_gbs is None
            continue
        assert found.device == target.name
        stated = {"fp32": hardware.peak_fp32_tflops, "fp16": hardware.peak_fp16_tflops, "int8": hardware.peak_int8_tops}
        plot = roofline(found)
        if graph == "pool" or stated[graph] is None:
            assert plot is None
            continue
        assert plot is not None and hardware.memory_bandwidth_gbs is not None
        for dot in plot.dots:
            intensity, gops = value_at(plot.x, dot.x), value_at(plot.y, dot.y)
            assert gops <= 1.02 * min(1e3 * (stated[graph] or 0.0), intensity * hardware.memory_bandwidth_gbs)


def value_at(axis: Axis, pixel: float) -> float:
    share = (pixel - axis.start_px) / (axis.end_px - axis.start_px)
    return math.exp(math.log(axis.low) + share * math.log(axis.high / axis.low))


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
    assert section.count("dot-kernel") == 2 * (2 + 2)  # wide and narrow, each with the legend
    assert "estimate for the device: at least 0.310 ms" in str(by_estimate(estimated)[0])
    assert "Estimate for the device" not in render(report) and by_estimate(report) == []
