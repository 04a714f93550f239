"""table: the figures of devices side by side, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgekd.figures.candidate import Latency
from edgekd.figures.devices import _called
from edgekd.figures.figures import OnDevice
from edgekd.figures.words import NOT_MEASURED, milliseconds, with_interval

BUSY = 0.1  # cores that other programs may keep busy without a remark in the report


def table(devices: Sequence[OnDevice]) -> RenderableType:
    """A row for each device and series, then warnings, further figures, and the conditions of the measurement."""
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    rows.add_column("device", overflow="fold")
    copies = any(latency.transfers != "none" for device in devices for latency in device.latencies)
    for column in ("batch", "threads", *(["copies"] if copies else []), "p50 ms", "p90 ms", "p99 ms", "n"):
        rows.add_column(column, justify="right", no_wrap=True)
    rows.add_column("origin", no_wrap=True)
    for device in devices:
        for latency in device.latencies or (None,):
            rows.add_row(
                *map(Text, [_called(device), *_run(latency, copies), *_figures(device, latency), device.origin])
            )
    lines = [Text(line, style="yellow") for device in devices for line in _warnings(device)]
    found = [Text(f"{_called(device)}: {line}") for device in devices for line in further(device)]
    return Group(rows, *lines, *found, *(Text(line, style="dim") for device in devices for line in _conditions(device)))


def further(device: OnDevice) -> Iterator[str]:
    """The device's further figures, each as a sentence."""
    if (score := device.score) is not None:
        found = f"{score.metric} {with_interval(score)} {score.unit}".strip()
        yield f"{found} of {score.n} {score.split} samples{_earlier(device, 'score')}"
    if device.energy is not None:
        rail, mj = max(device.energy.mj_per_inference.items(), key=lambda pair: pair[1])
        yield f"{mj:.3g} mJ an inference ({rail}){_earlier(device, 'energy')}"
    parts = [
        f"loaded in {device.load_ms:.0f} ms" if device.load_ms is not None else "",
        f"first inference {milliseconds(device.first_ms)} ms" if device.first_ms is not None else "",
        f"{device.peak_memory_mb:.1f} MB of memory by loading and running" if device.peak_memory_mb is not None else "",
        f"engine built in {device.build_s:.0f} s" if device.build_s is not None else "",
    ]
    if any(parts):
        yield ", ".join(part for part in parts if part)
    if device.cpus:
        yield f"bound to core {', '.join(map(str, device.cpus))}"
    if device.sustained:
        first, last = device.sustained[0], device.sustained[-1]
        worst = max(window.p50_ms for window in device.sustained)
        yield (
            f"{last.at_s:.0f} s without a rest: p50 {milliseconds(first.p50_ms)} ms at first, "
            f"{milliseconds(last.p50_ms)} at the end, {milliseconds(worst)} at worst{_earlier(device, 'sustained')}"
        )
    if device.other_load_cores is not None and device.other_load_cores > BUSY:
        yield f"{device.other_load_cores:.1f} cores were busy with other programs meanwhile"


def _run(latency: Latency | None, copies: bool) -> list[str]:
    if latency is None:
        return ["-"] * (3 if copies else 2)
    return [str(latency.batch_size), str(latency.threads), *([latency.transfers] if copies else [])]


def _figures(device: OnDevice, latency: Latency | None) -> list[str]:
    if latency is None:
        return [NOT_MEASURED, "-", "-", "-"]
    p99 = "-" if latency.p99_ms is None else milliseconds(latency.p99_ms)
    mark = " ~" if device.against(latency) else ""
    return [milliseconds(latency.p50_ms) + mark, milliseconds(latency.p90_ms), p99, str(latency.n)]


def _warnings(device: OnDevice) -> Iterator[str]:
    name = _called(device)
    if device.golden_ok is False:
        yield f"{name}: FAILED, {device.golden}"
    for reason in device.unstable:
        yield f"{name}: no verdict: {reason}"
    if not device.is_target:
        yield f"{name} is no device of the target's kind ({device.architecture}, {device.runtime}): it decides no budget"


def _earlier(device: OnDevice, name: str) -> str:
    return f" (measured earlier, {device.measured_earlier[name]})" if name in device.measured_earlier else ""


def _conditions(device: OnDevice) -> Iterator[str]:
    name = _called(device)
    yield f"{name}: {device.machine}; {device.system}; {device.runtime}"
    heat = _change(device.before.temperatures_c, device.after.temperatures_c, "°C")
    clocks = _change(device.before.clocks_mhz, device.after.clocks_mhz, "MHz")
    if heat or clocks:
        yield f"{name}: before and after: {'; '.join(part for part in (heat, clocks) if part)}"


def _change(before: dict[str, float], after: dict[str, float], unit: str) -> str:
    """The two highest readings, before and after, in words."""
    names = sorted(set(before) & set(after), key=lambda name: -after[name])[:2]
    return ", ".join(f"{name} {before[name]:.0f} → {after[name]:.0f} {unit}" for name in names)
