"""Estimates a model's latency on a device that is not at hand, from a profile or a calibration.

The roofline model (Williams et al. 2009) gives a kernel's least time as the larger of two terms. The terms are its
arithmetic over the device's peak for its number format, and its bytes over the memory's bandwidth. The kernel's start takes
time as well. An estimate is never a measurement. It is a range that says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekd.errors import ModelError
from edgekd.export.shapes import Sizes
from edgekd.figures.candidate import Estimate, KernelTime
from edgekd.measure.estimate.calibration import LEAST_OPERATIONS, Calibration, kernel_ms
from edgekd.measure.estimate.kernels import MULTIPLIES, Kernel, Work, read_work
from edgekd.target import Hardware, Target

# The upper end of an estimate from the profile alone: a tenth of the peaks and of the bandwidth is reached. This is an
# assumption and is printed as such; a calibration replaces it.
LEAST_EFFICIENCY = 0.1
NAMED = 5  # how many of the nodes without an estimate are named
MOST_START_US = 20.0  # start of a kernel at the upper end if the profile states none; an assumption too


def estimate(path: Path, target: Target, sizes: Sizes | None = None) -> Estimate | None:
    """The estimate for a sample from the profile alone, or None if the profile states no bandwidth.

    `sizes` are those of inputs by name. Raises ModelError for a file that is not ONNX and for free sizes without a value.
    Raises it also if no node can be estimated.
    """
    hardware = target.hardware
    if hardware.memory_bandwidth_gbs is None:
        return None
    work = _known(path, sizes)
    kernels = work.kernels
    stated = _peaks_gops(hardware)
    peaks = _most_gops(stated)
    bandwidth = hardware.memory_bandwidth_gbs
    times = [_roofline_ms(kernel, peaks.get(kernel.precision), bandwidth) for kernel in kernels]
    least = sum(_roofline_ms(kernel, peaks.get(kernel.precision), bandwidth) for kernel in work.least)
    start_us = hardware.kernel_overhead_us
    least_ms = sum(kernel.runs for kernel in work.least) * (start_us or 0.0) / 1e3
    most_ms = sum(kernel.runs for kernel in kernels) * (MOST_START_US if start_us is None else start_us) / 1e3
    high = "a tenth of them" + (
        "" if start_us is not None else f", and {MOST_START_US:g} µs for the start of each kernel"
    )
    without_peak = sorted({k.precision for k in kernels if k.kind in MULTIPLIES and k.precision not in peaks})
    open_above = bool(without_peak or work.unknown)
    above = "" if open_above else f", high: {high} (assumed)"
    return Estimate(
        device=target.name,
        basis=f"profile of {target.title} ({hardware.origin}); low: all of its peaks and bandwidth{above}",
        low_ms=least + least_ms,
        high_ms=None if open_above else sum(times) / LEAST_EFFICIENCY + most_ms,
        leaves_out=(*_not_estimated(work), *_left_out(hardware, kernels, without_peak)),
        kernels=_timed(kernels, times),
        peaks_gops=stated,
        without_peak=tuple(
            sorted({k.precision for k in kernels if k.kind in MULTIPLIES and k.precision not in stated})
        ),
        starts_left_out=0 if start_us is not None else sum(kernel.runs for kernel in work.least),
        bandwidth_gbs=bandwidth,
    )


def estimate_calibrated(path: Path, calibration: Calibration, sizes: Sizes | None = None) -> Estimate:
    """The estimate for a sample on a single thread, from measurements on the device.

    The range is that of four fifths of the networks that were not fitted on. Raises ModelError as `estimate` does.
    """
    work = _known(path, sizes)
    kernels = work.kernels
    times = [kernel_ms(kernel, calibration) for kernel in kernels]
    unknown = sorted({f"{k.kind} {k.precision}" for k, ms in zip(kernels, times, strict=True) if ms is None})
    left_out = _not_estimated(work)
    left_out += [f"kernels that no calibration network had: {name}" for name in unknown]
    if sum(kernel.operations for kernel in kernels) < LEAST_OPERATIONS:
        left_out.append(
            f"that it is smaller than every network that was fitted on ({LEAST_OPERATIONS:.0e} operations): expect less"
        )
    total = sum(ms or 0.0 for ms in times)
    least = sum(kernel_ms(kernel, calibration) or 0.0 for kernel in work.least)
    low, high = calibration.range
    held_out = (
        f"median error {100 * calibration.median_error:.0f} % on {len(calibration.held_out)} networks not fitted on"
    )
    return Estimate(
        device=calibration.device,
        basis=f"calibration of {calibration.device} ({calibration.machine}, {calibration.conditions}): {held_out}",
        low_ms=least * low,
        high_ms=None if unknown or work.unknown else total * high,
        leaves_out=tuple(left_out),
        kernels=_timed(kernels, [ms or 0.0 for ms in times]),
        peaks_gops={},
        bandwidth_gbs=None,
    )


def _known(path: Path, sizes: Sizes | None) -> Work:
    """The work of a file. Raises ModelError if nothing of the file can be estimated."""
    work = read_work(path, sizes)
    if not work.kernels or (work.unknown and not work.least):  # neither end of the range is known
        what = "; ".join(_not_estimated(work)) or "it holds no operator that computes"
        raise ModelError(f"nothing of {path} can be estimated: {what}; measure it on the device")
    return work


def _not_estimated(work: Work) -> list[str]:
    """The nodes that no rule counts or whose shapes are unknown, and the assumptions, in words."""
    found = list(work.assumptions)
    if work.unknown:
        shown = ", ".join(work.unknown[:NAMED])
        more = f" and {len(work.unknown) - NAMED} more" if len(work.unknown) > NAMED else ""
        found.insert(0, f"not estimated: {len(work.unknown)} nodes ({shown}{more})")
    return found


def _peaks_gops(hardware: Hardware) -> dict[str, float]:
    stated = {
        "int8": hardware.peak_int8_tops,
        "fp16": hardware.peak_fp16_tflops,
        "bf16": hardware.peak_bf16_tflops,
        "fp32": hardware.peak_fp32_tflops,
    }
    return {precision: 1e3 * peak for precision, peak in stated.items() if peak}


def _most_gops(stated: Mapping[str, float]) -> dict[str, float]:
    """The peaks that bound the time from below: a format without a peak cannot be faster than fp16.

    This bound is not drawn as a roof and does not order candidates.
    """
    fp16 = {precision: stated["fp16"] for precision in ("bf16", "fp32") if "fp16" in stated}
    return {**fp16, **stated}


def _roofline_ms(kernel: Kernel, peak_gops: float | None, bandwidth_gbs: float) -> float:
    """The roofline's time of a kernel. Only products count as arithmetic, because the peaks are those of their units."""
    arithmetic = kernel.operations / (peak_gops * 1e6) if peak_gops and kernel.kind in MULTIPLIES else 0.0
    return max(arithmetic, kernel.bytes / (bandwidth_gbs * 1e6))


def _left_out(hardware: Hardware, kernels: Sequence[Kernel], without_peak: Sequence[str]) -> list[str]:
    found = [f"arithmetic in {precision}: the profile states no peak" for precision in without_peak]
    if hardware.kernel_overhead_us is None:
        runs = sum(k.runs for k in kernels)
        found.append(
            f"launch time at its low end ({runs} kernel{'s' if runs > 1 else ''}), which dominates in a small network"
        )
    peaks = {"fp32": hardware.peak_fp32_tflops, "bf16": hardware.peak_bf16_tflops}
    for precision, peak in peaks.items() if hardware.peak_fp16_tflops else ():
        if peak is None and any(k.precision == precision and k.kind in MULTIPLIES for k in kernels):
            found.append(f"that {precision} is slower than fp16: the profile states no peak for {precision}")
    return found


def _timed(kernels: Sequence[Kernel], times: Sequence[float]) -> tuple[KernelTime, ...]:
    return tuple(
        KernelTime(name=k.name, kind=k.kind, precision=k.precision, operations=k.operations, bytes=k.bytes, ms=ms)
        for k, ms in zip(kernels, times, strict=True)
    )
