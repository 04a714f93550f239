"""print_estimate, print_calibration: the output of `edgekd targets NAME --model` and `edgekd device calibrate`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekd.figures.candidate import Estimate
from edgekd.figures.words import milliseconds
from edgekd.measure.estimate.calibration import ACCEPTED, Calibration
from edgekd.report.roofline import in_words, time_by_kind


def print_estimate(estimate: Estimate) -> None:
    console = Console(highlight=False)
    console.print(Text(f"estimate for {estimate.device}: {in_words(estimate)} for one sample", style="bold"))
    console.print(Text(f"basis: {estimate.basis}", style="dim"))
    for what in estimate.leaves_out:
        console.print(Text(f"leaves out: {what}", style="yellow"))
    table = Table(box=None, pad_edge=False)
    table.add_column("kernels")
    for column in ("number", "ms", "share"):
        table.add_column(column, justify="right")
    for kind, number, ms, share in time_by_kind(estimate):
        table.add_row(kind, str(number), milliseconds(ms), f"{100 * share:.0f} %")
    console.print(table)


def print_calibration(calibration: Calibration) -> None:
    console = Console(highlight=False)
    console.print(Text(f"{calibration.device}: {calibration.machine}, {calibration.conditions}", style="bold"))
    rates = Table("kernels", "10⁹ operations/s", "GB/s", box=None, pad_edge=False)
    for name in sorted(calibration.ms_per_gb):
        rates.add_row(name, _rate(calibration.ms_per_gop.get(name, 0.0)), _rate(calibration.ms_per_gb[name]))
    console.print(rates)
    starts = ", ".join(f"{1e3 * ms:.1f} µs ({precision})" for precision, ms in calibration.start_ms.items())
    console.print(
        Text(
            f"a kernel's start: {starts}; a row's two figures share out one cost (- : none of it), neither alone is a peak"
        )
    )
    table = Table("held out", "measured ms", "estimated ms", "error", "rounds apart", box=None, pad_edge=False)
    for network in calibration.held_out:
        row = (milliseconds(network.measured_ms), milliseconds(network.estimated_ms), f"{100 * network.error:+.0f} %")
        table.add_row(network.name, *row, f"{100 * network.noise:.0f} %")
    console.print(table)
    good = calibration.median_error <= ACCEPTED
    console.print(
        Text(
            f"median error {100 * calibration.median_error:.1f} % on {len(calibration.held_out)} networks that were not "
            f"fitted on ({100 * calibration.fit_error:.1f} % on the {calibration.fitted_on} that were)",
            style="bold green" if good else "bold yellow",
        )
    )
    conditions = f"rounds lie {100 * calibration.noise:.0f} % apart (median), wall time is {calibration.waited:.2f} of the processor's"
    console.print(Text(f"{conditions}: figures are processor time, the fastest round", style="dim"))
    if not good:
        console.print(
            Text(f"more than {100 * ACCEPTED:.0f} %: calibrate again when the device is idle", style="yellow")
        )


def _rate(ms_per_unit: float) -> str:
    return f"{1e3 / ms_per_unit:.3g}" if ms_per_unit > 0 else "-"
