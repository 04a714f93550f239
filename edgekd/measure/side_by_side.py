"""measure_all: measures a bundle on several devices at once, a thread for each, and updates the bundle's report."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from edgekd.base.console import say
from edgekd.bundle.manifest import Manifest
from edgekd.bundle.read import add_to_report, read_report
from edgekd.errors import DeviceError, EdgekdError, nearest
from edgekd.figures.devices import with_device, without_device
from edgekd.figures.figures import OnDevice, Report
from edgekd.measure.binary import measure_with
from edgekd.measure.devices import Device
from edgekd.measure.devices.named import open_device
from edgekd.measure.devices.process import end_all
from edgekd.measure.on_device import Options, Samples, measure_on, trial_of


def measure_all(
    bundle: Path, names: Sequence[str], options: Options, samples: Samples | None = None, program: str = ""
) -> tuple[list[OnDevice], Report]:
    """The figures, in the order of the names, and the bundle's new report.

    program: measures in place of device_runner.py (see measure_with). A device that fails does not stop the others; its
    failure is printed at once. Raises DeviceError with each device's message if all failed.
    """
    trial = trial_of(bundle)
    read_report(bundle)  # an unreadable report is refused before the measurement
    with ExitStack() as opened:
        devices = [opened.enter_context(open_device(name)) for name in dict.fromkeys(names)]

        def measure(device: Device) -> OnDevice | EdgekdError:
            try:
                return measure_with(program, device, trial) if program else measure_on(device, trial, options, samples)
            except EdgekdError as error:
                if len(devices) > 1:
                    say(str(error))
                return error

        with ThreadPoolExecutor(len(devices)) as pool:
            try:
                outcomes = list(pool.map(measure, devices))
            except KeyboardInterrupt:
                end_all()  # otherwise the pool would wait for its threads
                raise
    figures = [outcome for outcome in outcomes if isinstance(outcome, OnDevice)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, EdgekdError)]
    if not figures:
        raise failed[0] if len(failed) == 1 else DeviceError("\n".join(map(str, failed)))
    return figures, record(bundle, figures)


def record(bundle: Path, figures: Sequence[OnDevice]) -> Report:
    """Adds the figures to the bundle's report."""

    def change(report: Report, manifest: Manifest) -> Report:
        for device in figures:
            report = with_device(report, device, manifest.recipe.budget.p90_latency_ms)
        return report

    return add_to_report(bundle, change)


def forget_device(bundle: Path, name: str) -> Report:
    """Removes a device's figures from a bundle's report. Raises DeviceError if it has none of that device."""
    known = [device.device for device in read_report(bundle).devices]
    if name not in known:
        raise DeviceError(f"the report of {bundle} has no figures of {name!r}{nearest(name, known)}")
    return add_to_report(
        bundle, lambda report, manifest: without_device(report, name, manifest.recipe.budget.p90_latency_ms)
    )
