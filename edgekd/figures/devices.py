"""with_device: adds a device's figures, and the checks that follow from them, to a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekd.figures.candidate import Check, Latency
from edgekd.figures.figures import OnDevice, Report
from edgekd.figures.verdict import LATENCY, P90
from edgekd.figures.words import milliseconds

GOLDEN = "stored outputs on "
LASTING = ("score", "energy", "sustained")  # figures kept from an earlier measurement of the same model


def with_device(report: Report, measured: OnDevice, p90_budget_ms: float | None) -> Report:
    """The report with a device's figures, which replace its earlier figures in the same power mode.

    Score, energy and sustained run of the earlier measurement stay if they were not measured again. The model and the
    runtime must be the same, and the new measurement must have given the stored outputs.
    """
    before = next(
        (d for d in report.devices if (d.device, d.power_mode) == (measured.device, measured.power_mode)), None
    )
    if (
        before is not None
        and measured.golden_ok
        and (before.model_sha256, before.runtime) == (measured.model_sha256, measured.runtime)
    ):
        kept = {
            name: getattr(before, name) for name in LASTING if getattr(before, name) and not getattr(measured, name)
        }
        dates = {name: before.measured_earlier.get(name, before.created) for name in kept}
        measured = measured.model_copy(update={**kept, "measured_earlier": dates})
    return _with_devices(report, (*(d for d in report.devices if d is not before), measured), p90_budget_ms)


def without_device(report: Report, name: str, p90_budget_ms: float | None) -> Report:
    """The report without a device's figures, in every power mode."""
    return _with_devices(report, tuple(device for device in report.devices if device.device != name), p90_budget_ms)


def _with_devices(report: Report, devices: tuple[OnDevice, ...], p90_budget_ms: float | None) -> Report:
    """Replaces the devices' checks. Without any device the latency check reads `not measured`."""
    kept = [check for check in report.checks if check.name != P90 and not check.name.startswith((LATENCY, GOLDEN))]
    # Who measures this machine as a device, and has the target's kind of machine, has named it as the device.
    if not any(device.origin in ("device", "host") for device, _ in deciding(devices)):
        kept.append(not_yet(report.target_title))
    return report.model_copy(
        update={"devices": devices, "checks": (*kept, *device_checks(devices, p90_budget_ms))}, deep=False
    )


def not_yet(target_title: str) -> Check:
    """The check line for a latency that no device has measured."""
    return Check(
        name=LATENCY + "the device",
        verdict="not measured",
        found=f"needs the device ({target_title}): edgekd measure BUNDLE --device NAME",
        origin="not measured",
    )


def device_checks(devices: Sequence[OnDevice], p90_budget_ms: float | None) -> Iterator[Check]:
    """The checks from the devices. Only a steady device of the target's kind decides the latency budget."""
    if p90_budget_ms is not None:
        yield _budget(devices, p90_budget_ms)
    for device in devices:
        name = _called(device)
        yield Check(
            name=GOLDEN + name,
            verdict="not measured" if device.golden_ok is None else "pass" if device.golden_ok else "missed",
            found=device.golden,
            origin=device.origin,
        )
        latency = decisive(device)
        if latency is not None:
            yield Check(
                name=LATENCY + name,
                verdict="unstable" if device.against(latency) else "note",
                found=f"{milliseconds(latency.p50_ms)} ms median, p90 {milliseconds(latency.p90_ms)} ms, {_taken(latency)}, {device.runtime}"
                + "".join(f"; {reason}" for reason in device.against(latency)),
                origin=device.origin,
            )


def decisive(device: OnDevice) -> Latency | None:
    """The latency that counts for a device: smallest batch, then fewest threads, copies to the GPU included."""
    candidates = [latency for latency in device.latencies if latency.transfers != "excluded"]
    return min(candidates, key=lambda latency: (latency.batch_size, latency.threads), default=None)


def deciding(devices: Sequence[OnDevice]) -> list[tuple[OnDevice, Latency]]:
    """The devices of the target's kind that decide a budget, each with its latency at batch 1.

    Real devices come before this machine, which counts only if no real device of that kind was measured.
    """
    figures = [(device, decisive(device)) for device in devices if device.is_target]
    fit = [(device, latency) for device, latency in figures if latency is not None and latency.batch_size == 1]
    if any(device.is_target and device.origin == "device" for device in devices):
        return [(device, latency) for device, latency in fit if device.origin == "device"]
    return fit


def _budget(devices: Sequence[OnDevice], most_ms: float) -> Check:
    """The worst verdict of the devices that can decide; `not measured` if none can."""
    limit = f"at most {most_ms:g}"
    fit = deciding(devices)
    if not fit:
        found = "needs the device"
        if devices:
            found += ": " + "; ".join(f"{_called(device)} {_undecided(device)}" for device in devices)
        return Check(name=P90, verdict="not measured", found=found, limit=limit, origin="not measured")
    steady = [(device, latency) for device, latency in fit if not device.against(latency)]
    device, latency = max(steady or fit, key=lambda pair: pair[1].p90_ms)
    found = f"{milliseconds(latency.p90_ms)} ms on {_called(device)}, {_taken(latency)}"
    shaky = ", ".join(_called(device) for device, latency in fit if device.against(latency))
    if not steady:
        found += f"; no verdict: {shaky} was not steady"
        return Check(name=P90, verdict="unstable", found=found, limit=limit, origin=device.origin)
    found += f"; {shaky} was not steady and is left out" if shaky else ""
    kept = latency.p90_ms <= most_ms
    return Check(name=P90, verdict="pass" if kept else "missed", found=found, limit=limit, origin=device.origin)


def _undecided(device: OnDevice) -> str:
    if not device.is_target:
        return "is of another kind than the target"
    return "was measured with other batches than 1" if device.latencies else "does not give the stored outputs"


def _taken(latency: Latency) -> str:
    return f"batch {latency.batch_size}, {latency.threads} thread{'s' if latency.threads > 1 else ''}"


def _called(device: OnDevice) -> str:
    return f"{device.device} ({device.power_mode})" if device.power_mode else device.device
