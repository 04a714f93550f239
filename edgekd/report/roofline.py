"""roofline: draws an estimate's kernels under the device's roofs, as an SVG drawing that loads no other file."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from edgekd.figures.candidate import Estimate, KernelTime
from edgekd.figures.words import milliseconds
from edgekd.report.axes import Axis
from edgekd.report.templates import templates

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 920, 360, 70, 24, 28, 48
FRAMES = (("wide", (WIDTH, LEFT)), ("narrow", (360, 58)))  # class of the page's drawing, its width and left margin
MOST = 400  # kernels that are drawn; the page has at most 1 MB
COLOURS = 8
ROUNDING = 1e-6
NO_PRODUCTS = ("elementwise", "pool", "move")


@dataclass(frozen=True)
class Roof:
    """The highest speed that the profile allows at each intensity, for a number format."""

    name: str
    points: str
    label_y: float


@dataclass(frozen=True)
class Dot:
    """A kernel in the drawing. The area of the dot is the kernel's share of the time."""

    x: float
    y: float
    radius: float
    colour: int
    title: str


@dataclass(frozen=True)
class Roofline:
    """A roofline drawing. left_out: counts of kernels that are not drawn, with reasons."""

    width: int
    height: int
    x: Axis
    y: Axis
    roofs: list[Roof]
    dots: list[Dot]
    kinds: list[tuple[str, int]]
    left_out: tuple[str, ...] = ()


def roofline(estimate: Estimate, width: int = WIDTH, left: int = LEFT) -> Roofline | None:
    """The plot of operations per second over operations per byte, both logarithmic; None if no kernel can be drawn.

    All points and lines are of the estimate's own device. A kernel whose number format has no peak in the profile has no
    roof and is not drawn. A kernel above its roof is not drawn either, because no device can reach that. Of more than
    `MOST` kernels the longest are drawn. width, left: of the drawing and of its left margin, in pixels.
    """
    computing = [kernel for kernel in estimate.kernels if kernel.operations and kernel.bytes and kernel.ms > 0]
    kernels = sorted(computing, key=lambda kernel: -kernel.ms) if len(computing) > MOST else computing
    kernels = [kernel for kernel in kernels if not not_drawn(estimate, kernel)][:MOST]
    products = [kernel for kernel in kernels if kernel.kind not in NO_PRODUCTS]
    if not kernels or (estimate.bandwidth_gbs is not None and not products):
        return None
    intensities = [kernel.operations / kernel.bytes for kernel in kernels]
    speeds = [_gops(kernel) for kernel in kernels]
    x = Axis(
        min(intensities) / 1.5, max(*intensities, *_ridges(estimate), 1.0) * 2, left, width - RIGHT, logarithmic=True
    )
    y = Axis(
        min(speeds) / 1.5, max(*speeds, *_peaks(estimate).values(), 1e-6) * 2, HEIGHT - BOTTOM, TOP, logarithmic=True
    )
    kinds = list(dict.fromkeys(kernel.kind for kernel in kernels))
    total = sum(kernel.ms for kernel in estimate.kernels)
    dots = [_dot(kernel, x, y, kinds.index(kernel.kind) % COLOURS, kernel.ms / total) for kernel in kernels]
    return Roofline(
        width,
        HEIGHT,
        x,
        y,
        _roofs(estimate, x, y),
        dots,
        [(kind, i % COLOURS) for i, kind in enumerate(kinds)],
        left_out_of_plot(estimate),
    )


def not_drawn(estimate: Estimate, kernel: KernelTime) -> str:
    """The reason why a kernel cannot be drawn under the roofs, or empty. A calibration has no roofs."""
    bandwidth, peak = estimate.bandwidth_gbs, estimate.peaks_gops.get(kernel.precision)
    if bandwidth is None:
        return ""
    if kernel.kind not in NO_PRODUCTS and peak is None:
        return f"the profile states no peak for {kernel.precision}, so nothing bounds their arithmetic"
    roof = bandwidth * kernel.operations / kernel.bytes
    if kernel.kind not in NO_PRODUCTS and peak is not None:
        roof = min(roof, peak)
    return "they lie above what the profile allows" if _gops(kernel) > roof * (1 + ROUNDING) else ""


def left_out_of_plot(estimate: Estimate) -> tuple[str, ...]:
    """A line for each reason that kernels are not drawn: '12 kernels: the profile states no peak for fp32, ...'."""
    computing = [kernel for kernel in estimate.kernels if kernel.operations and kernel.bytes and kernel.ms > 0]
    whys = Counter(why for kernel in computing if (why := not_drawn(estimate, kernel)))
    if (rest := len(computing) - sum(whys.values()) - MOST) > 0:
        whys[f"the {MOST} longest are drawn"] = rest
    return tuple(f"{number} kernel{'s' if number > 1 else ''}: {why}" for why, number in whys.items())


def time_by_kind(estimate: Estimate) -> list[tuple[str, int, float, float]]:
    """Rows (kind and number format, kernels, milliseconds, share of the time), the longest time first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for kernel in estimate.kernels:
        groups[f"{kernel.kind} {kernel.precision}"].append(kernel.ms)
    total = sum(kernel.ms for kernel in estimate.kernels) or 1.0
    rows = [(name, len(times), sum(times), sum(times) / total) for name, times in groups.items()]
    return sorted(rows, key=lambda row: -row[2])


def in_words(estimate: Estimate) -> str:
    """The estimate in words: '0.12 to 1.2 ms', or 'at least 0.12 ms'.

    A low end without the kernels' launch time is marked, because no device reaches that time.
    """
    low, high = milliseconds(estimate.low_ms), estimate.high_ms
    if estimate.low_ms == 0 and high is not None:  # a branch that does nothing
        return f"up to {milliseconds(high)} ms"
    if estimate.starts_left_out:
        starts = f"{estimate.starts_left_out} kernel{'s' if estimate.starts_left_out > 1 else ''}"
        most = f", at most {milliseconds(high)} ms" if high is not None else ""
        return f"more than {low} ms without launch time ({starts}){most}"
    return f"at least {low} ms" if high is None else f"{low} to {milliseconds(high)} ms"


def svg(estimate: Estimate) -> str:
    """The drawing as the text of a separate SVG file; empty if no kernel can be drawn."""
    plot = roofline(estimate)
    if plot is None:
        return ""
    return (
        templates()
        .get_template("roofline.svg.j2")
        .render(roofline=plot, title=f"{estimate.device}: estimate", alone=True)
    )


def _gops(kernel: KernelTime) -> float:
    return kernel.operations / (kernel.ms * 1e6)


def _peaks(estimate: Estimate) -> dict[str, float]:
    """The peaks of the number formats that the estimate's products use."""
    used = {kernel.precision for kernel in estimate.kernels if kernel.kind not in NO_PRODUCTS}
    return {precision: peak for precision, peak in estimate.peaks_gops.items() if precision in used}


def _ridges(estimate: Estimate) -> list[float]:
    """The intensities, in operations per byte, above which the peak and not the bandwidth is the limit."""
    return [peak / estimate.bandwidth_gbs for peak in _peaks(estimate).values()] if estimate.bandwidth_gbs else []


def _roofs(estimate: Estimate, x: Axis, y: Axis) -> list[Roof]:
    bandwidth, roofs = estimate.bandwidth_gbs, []
    if bandwidth is None:
        return []
    for name, peak in _peaks(estimate).items():
        start = max(x.low, y.low / bandwidth)
        corners = [(start, start * bandwidth), (max(start, peak / bandwidth), peak), (x.high, peak)]
        roofs.append(Roof(f"{name} {peak / 1e3:g} T/s", " ".join(f"{x(a)},{y(b)}" for a, b in corners), y(peak) - 6))
    return roofs


def _dot(kernel: KernelTime, x: Axis, y: Axis, colour: int, share: float) -> Dot:
    title = f"{kernel.name}: {kernel.kind} {kernel.precision}, {milliseconds(kernel.ms)} ms, {100 * share:.1f} % of the time"
    return Dot(
        x(kernel.operations / kernel.bytes), y(_gops(kernel)), round(3 + 20 * math.sqrt(share), 1), colour, title
    )
