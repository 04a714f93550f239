"""with_device: a report that has a device's figures and the checks that follow; table: devices side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgekd.report.model import Check, Latency, OnDevice, Report
from edgekd.report.terminal import NOT_MEASURED, milliseconds, top1

LATENCY = "latency on "  # the check of a device's latency is called so, and the budget's line `p90_latency_ms`
NOT_YET = LATENCY + "the device"  # a build's line before any device has been measured
GOLDEN = "stored outputs on "
P90 = "p90_latency_ms"


def with_device(report: Report, found: OnDevice, p90_budget_ms: float | None) -> Report:
    """The report with a device's figures, in place of those that it gave before in the same power mode."""
    others = tuple(d for d in report.devices if (d.device, d.power_mode) != (found.device, found.power_mode))
    devices = (*others, found)
    replaced = {check.name for check in report.checks if check.name.startswith((LATENCY, GOLDEN))}
    if not any(device.is_target and device.latencies for device in devices):
        replaced -= {NOT_YET}
    kept = [check for check in report.checks if check.name not in replaced | {P90}]
    return report.model_copy(
        update={"devices": devices, "checks": (*kept, *device_checks(devices, p90_budget_ms))}, deep=False
    )


def device_checks(devices: Sequence[OnDevice], p90_budget_ms: float | None) -> Iterator[Check]:
    """What the devices say; the latency budget is decided where the device is of the target's kind, and steady."""
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
                verdict="unstable" if device.unstable else "note",
                found=f"{milliseconds(latency.p50_ms)} ms median, p90 {milliseconds(latency.p90_ms)} ms, {device.runtime}"
                + "".join(f"; {reason}" for reason in device.unstable),
                origin=device.origin,
            )


def decisive(device: OnDevice) -> Latency | None:
    """What a budget is held against: the first that was measured, batch 1 where that is among them, copies included."""
    candidates = [latency for latency in device.latencies if latency.transfers != "excluded"]
    return next((latency for latency in candidates if latency.batch_size == 1), candidates[0] if candidates else None)


def _budget(devices: Sequence[OnDevice], most_ms: float) -> Check:
    """The worst verdict of the devices that can decide; `not measured` where none can."""
    limit = f"at most {most_ms:g}"
    fit = [(device, latency) for device in devices if device.is_target and (latency := decisive(device)) is not None]
    if not fit:
        found = "needs the device"
        if devices:
            found += f": {', '.join(_called(device) for device in devices)} is of another kind than the target"
        return Check(name=P90, verdict="not measured", found=found, limit=limit, origin="not measured")
    device, latency = max(fit, key=lambda pair: pair[1].p90_ms)
    found = f"{milliseconds(latency.p90_ms)} ms on {_called(device)}"
    shaky = next((device for device, _ in fit if device.unstable), None)
    if shaky is not None:
        found += f"; no verdict: {_called(shaky)} was not steady"
        return Check(name=P90, verdict="unstable", found=found, limit=limit, origin=shaky.origin)
    kept = latency.p90_ms <= most_ms
    return Check(name=P90, verdict="pass" if kept else "missed", found=found, limit=limit, origin=device.origin)


def _called(device: OnDevice) -> str:
    return f"{device.device} ({device.power_mode})" if device.power_mode else device.device


def table(devices: Sequence[OnDevice]) -> RenderableType:
    """A row a device and series, then what was not steady, and what the figures were taken on."""
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    rows.add_column("device", no_wrap=True)
    copies = any(latency.transfers != "none" for device in devices for latency in device.latencies)
    for column in ("batch", "threads", *(["copies"] if copies else [])):
        rows.add_column(column, justify="right")
    shown = ["p50 ms", "p90 ms", "p99 ms", "n", *(name for name, figure in ONCE.items() if any(map(figure, devices)))]
    for column in shown:
        rows.add_column(column, justify="right", no_wrap=True)
    rows.add_column("origin", no_wrap=True)
    for device in devices:
        once = [_called(device), *(ONCE[name](device) or "-" for name in shown[4:])]
        for latency in device.latencies or (None,):
            name, *others = once
            rows.add_row(*map(Text, [name, *_run(latency, copies), *_figures(device, latency), *others, device.origin]))
            once = [""] * len(once)
    lines = [Text(line, style="yellow") for device in devices for line in _warnings(device)]
    return Group(rows, *lines, *(Text(line, style="dim") for device in devices for line in _conditions(device)))


# Figures of a device that are no series: column -> text, empty where there is none.
ONCE: Mapping[str, Callable[[OnDevice], str]] = {
    "peak MB": lambda d: "" if d.peak_memory_mb is None else f"{d.peak_memory_mb:.1f}",
    "mJ": lambda d: "" if d.energy is None else f"{max(d.energy.mj_per_inference.values(), default=0):.3g}",
    "top-1 %": lambda d: "" if d.accuracy is None else top1(d.accuracy),
}


def _run(latency: Latency | None, copies: bool) -> list[str]:
    if latency is None:
        return ["-"] * (3 if copies else 2)
    return [str(latency.batch_size), str(latency.threads), *([latency.transfers] if copies else [])]


def _figures(device: OnDevice, latency: Latency | None) -> list[str]:
    if latency is None:
        return [NOT_MEASURED, "-", "-", "-"]
    p99 = "-" if latency.p99_ms is None else milliseconds(latency.p99_ms)
    mark = " ~" if device.unstable else ""
    return [milliseconds(latency.p50_ms) + mark, milliseconds(latency.p90_ms), p99, str(latency.n)]


def _warnings(device: OnDevice) -> Iterator[str]:
    name = _called(device)
    if device.golden_ok is False:
        yield f"{name}: FAILED, {device.golden}"
    for reason in device.unstable:
        yield f"{name}: no verdict: {reason}"
    if not device.is_target:
        yield f"{name} is no device of the target's kind ({device.architecture}, {device.runtime}): it decides no budget"


def _conditions(device: OnDevice) -> Iterator[str]:
    name = _called(device)
    yield f"{name}: {device.machine}; {device.system}; {device.runtime}"
    parts = [
        f"loaded in {device.load_ms:.0f} ms" if device.load_ms is not None else "",
        f"first inference {milliseconds(device.first_ms)} ms" if device.first_ms is not None else "",
        f"engine built in {device.build_s:.0f} s" if device.build_s is not None else "",
        f"{device.other_load_cores:.1f} cores busy with other programs" if device.other_load_cores else "",
    ]
    if any(parts):
        yield f"{name}: {', '.join(part for part in parts if part)}"
    heat = _change(device.before.temperatures_c, device.after.temperatures_c, "°C")
    clocks = _change(device.before.clocks_mhz, device.after.clocks_mhz, "MHz")
    if heat or clocks:
        yield f"{name}: before and after: {'; '.join(part for part in (heat, clocks) if part)}"
    if device.sustained:
        first, last = device.sustained[0], device.sustained[-1]
        worst = max(window.p50_ms for window in device.sustained)
        yield (
            f"{name}: {last.at_s / 60:.1f} min without a rest: p50 {milliseconds(first.p50_ms)} ms at first, "
            f"{milliseconds(last.p50_ms)} at the end, {milliseconds(worst)} at worst"
        )


def _change(before: dict[str, float], after: dict[str, float], unit: str) -> str:
    """The two highest, before and after."""
    names = sorted(set(before) & set(after), key=lambda name: -after[name])[:2]
    return ", ".join(f"{name} {before[name]:.0f} → {after[name]:.0f} {unit}" for name in names)
