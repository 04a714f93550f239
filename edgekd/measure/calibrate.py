"""calibrate: how fast a device is at each class of operator, fitted on small networks that are timed there.

A kernel of class c and number format p is taken to last `start_p + operations / rate_c + bytes / bandwidth_c`, its channels
counted in full vectors: the roofline with its two terms added, because a sum can be fitted by non-negative least squares and
neither term hides the other. What it is worth is told by networks that were measured in the same rounds and not fitted on.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.optimize import nnls

from edgekd.errors import DeviceError, nearest
from edgekd.measure import device_timings
from edgekd.measure.at_work import Workplace
from edgekd.measure.calibration_nets import write_networks
from edgekd.measure.devices import Device
from edgekd.measure.kernels import Kernel, Precision, read_kernels
from edgekd.measure.remote import probe
from edgekd.say import say
from edgekd.stage import write_atomically

NETWORKS: Mapping[Precision, int] = {"fp32": 84, "int8": 70}
ROUNDS, BLOCK_MS = 6, 25.0
ACCEPTED = 0.15  # median error on the held-out networks beyond which the report warns
SECONDS = 3600
LANES = (1, 4, 8, 16, 32)
FOLDS = 5
TIGHT = 0.02  # residuals below this share are not told apart: the measurement's own noise is larger


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HeldOut(Section):
    """A network that was not fitted on; `noise` is how far apart its rounds lie, as a share of the fastest."""

    name: str
    measured_ms: float
    estimated_ms: float
    noise: float

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return self.estimated_ms / self.measured_ms - 1


class Calibration(Section):
    """A device's speed by class of operator, as "conv fp32"; times are of one thread's own, the fastest of the rounds."""

    device: str
    machine: str
    runtime: str
    created: str = Field(description="UTC, ISO 8601")
    start_ms: dict[str, float] = Field(description="number format -> the start of a kernel")
    ms_per_gop: dict[str, float]
    ms_per_gb: dict[str, float]
    lanes: int = Field(description="channels are counted in full vectors of so many")
    fitted_on: int
    fit_error: float = Field(description="median, as a share, on the networks that were fitted on")
    noise: float = Field(
        description="median over the networks of how far apart the rounds lie, as a share of the fastest"
    )
    waited: float = Field(description="median of wall time over processor time: 1 on an idle machine")
    held_out: tuple[HeldOut, ...]

    @property
    def median_error(self) -> float:
        return float(np.median([abs(network.error) for network in self.held_out]))

    @property
    def range(self) -> tuple[float, float]:
        """Measured over estimated: where the middle four fifths of the held-out networks lie."""
        ratios = [network.measured_ms / network.estimated_ms for network in self.held_out]
        low, high = np.percentile(ratios, (10, 90))
        return min(float(low), 1.0), max(float(high), 1.0)


def calibrate(
    device: Device, held_out: Mapping[str, Path], *, rounds: int = ROUNDS, networks: Mapping[Precision, int] = NETWORKS
) -> Calibration:
    """Time small networks of the device's kinds and `held_out` (name -> ONNX file) there, in the same rounds, and fit.

    Raises DeviceError for an emulated CPU, whose time says nothing, and where the device cannot run them.
    """
    refuse_emulated(device)
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        made = [
            path for precision, count in networks.items() for path in write_networks(Path(folder), count, precision)
        ]
        say(f"  timing {len(made)} networks to fit on and {len(held_out)} held out on {device.name}")
        fitted = {path.name: path for path in made}
        measured = time_on(
            device, {**fitted, **{f"held-out-{i}.onnx": path for i, path in enumerate(held_out.values())}}, rounds
        )
        times = {name: float(rounds.min()) for name, rounds in measured.cpu_ms.items()}
        fit = fit_rates([read_kernels(path) for path in made], [times[name] for name in fitted])
        spread = {name: float(np.ptp(rounds) / rounds.min()) for name, rounds in measured.cpu_ms.items()}
        errors = [abs(fit.ms(read_kernels(path)) / times[name] - 1) for name, path in fitted.items()]
        outside = [
            HeldOut(
                name=name,
                measured_ms=times[f"held-out-{i}.onnx"],
                estimated_ms=fit.ms(read_kernels(path)),
                noise=spread[f"held-out-{i}.onnx"],
            )
            for i, (name, path) in enumerate(held_out.items())
        ]
    return Calibration(
        device=device.name, machine=measured.machine, runtime=measured.runtime, created=datetime.now(UTC).isoformat(timespec="seconds"),
        start_ms=fit.start_ms, ms_per_gop=fit.ms_per_gop, ms_per_gb=fit.ms_per_gb, lanes=fit.lanes, fitted_on=len(made),
        fit_error=float(np.median(errors)), noise=float(np.median(list(spread.values()))), waited=measured.waited, held_out=tuple(outside),
    )  # fmt: skip


def refuse_emulated(device: Device) -> None:
    """Raises DeviceError for an emulated CPU."""
    if device.origin == "emulated":
        raise DeviceError(f"{device.name} is emulated: its milliseconds are nobody's; calibrate a real device")


def refuse_without_onnxruntime(device: Device) -> None:
    """Raises DeviceError where the networks could not be timed; told before any is made."""
    facts = probe(device)
    if "onnxruntime" not in facts.able:
        raise DeviceError(
            f"{device.name} ({facts.title}) has no onnxruntime and numpy for its Python {facts.python}, in which a calibration "
            "is timed: python3 -m pip install onnxruntime numpy"
        )


class Timings:
    """What a device said: name -> milliseconds of each round, of the thread's own processor time."""

    def __init__(self, answer: object, names: Sequence[str], device: str) -> None:
        try:
            assert isinstance(answer, dict)
            self.machine, self.runtime = str(answer["machine"]), str(answer["runtime"])
            self.cpu_ms = {name: np.asarray(answer["cpu_ms"][name], np.float64) for name in names}
            wall_ms = {name: np.asarray(answer["wall_ms"][name], np.float64) for name in names}
            assert all(rounds.ndim == 1 and rounds.size and (rounds > 0).all() for rounds in self.cpu_ms.values())
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise DeviceError(f"{device}: the times that it gave make no sense: {error!r}") from error
        self.waited = float(np.median([np.median(wall_ms[name] / self.cpu_ms[name]) for name in names]))


def time_on(device: Device, models: Mapping[str, Path], rounds: int) -> Timings:
    """name -> model, timed on the device in interleaved rounds; see device_timings.py."""
    with Workplace(device) as there:
        script = there.put(Path(device_timings.__file__))
        paths = {there.put(path, name): name for name, path in models.items()}
        out = there.python([script, str(rounds), str(BLOCK_MS), *paths], timeout_s=SECONDS)
        try:
            answer = json.loads(out.decode().strip().splitlines()[-1])
            for kind in ("cpu_ms", "wall_ms"):
                answer[kind] = {paths[path]: values for path, values in answer[kind].items()}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DeviceError(f"{device.name}: the times that it gave make no sense: {error!r}") from error
    return Timings(answer, list(models), device.name)


class Rates(Section):
    """The fitted figures; see `Calibration`."""

    start_ms: dict[str, float]
    ms_per_gop: dict[str, float]
    ms_per_gb: dict[str, float]
    lanes: int

    def ms(self, kernels: Sequence[Kernel]) -> float:
        return sum(kernel_ms(kernel, self) or 0.0 for kernel in kernels)


def kernel_ms(kernel: Kernel, rates: Rates | Calibration) -> float | None:
    """One kernel; None where no calibration network had one of its class."""
    name = f"{kernel.kind} {kernel.precision}"
    if name not in rates.ms_per_gb:
        return None
    arithmetic = kernel.filled(rates.lanes) / 1e9 * rates.ms_per_gop.get(name, 0.0)
    return rates.start_ms[kernel.precision] + arithmetic + kernel.bytes / 1e9 * rates.ms_per_gb[name]


def fit_rates(networks: Sequence[Sequence[Kernel]], times_ms: Sequence[float]) -> Rates:
    """The rates whose sums come closest to the times: non-negative, least absolute relative error.

    Absolute errors (by reweighted least squares), so that a network that the machine disturbed does not bend the fit. The width
    of the vectors is the one that predicts best what was left out of the fit (5-fold cross-validation).
    """
    times = np.asarray(times_ms, np.float64)
    lanes = min(LANES, key=lambda width: _cross_error(networks, times, width))
    return _fit(networks, times, lanes)


def _cross_error(networks: Sequence[Sequence[Kernel]], times_ms: NDArray[np.float64], lanes: int) -> float:
    """Median error, as a share, on the networks of each fold by the fit on the others."""
    order, errors = np.random.default_rng(0).permutation(len(networks)), []
    for fold in range(FOLDS):
        left_out = order[fold::FOLDS]
        kept = np.setdiff1d(order, left_out)
        fit = _fit([networks[i] for i in kept], times_ms[kept], lanes)
        errors += [abs(fit.ms(networks[i]) / times_ms[i] - 1) for i in left_out]
    return float(np.median(errors))


def _fit(networks: Sequence[Sequence[Kernel]], times: NDArray[np.float64], lanes: int) -> Rates:
    work = [_work(kernels, lanes) for kernels in networks]
    columns = sorted({column for each in work for column in each})
    shares = np.array([[each.get(column, 0.0) for column in columns] for each in work]) / times[:, None]
    weights = np.ones(len(times))
    for _ in range(30):
        found: NDArray[np.float64] = nnls(shares * weights[:, None], weights, maxiter=100 * len(columns))[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(shares @ found - 1), TIGHT))
    rates: dict[str, dict[str, float]] = defaultdict(dict)
    for (what, name), value in zip(columns, found, strict=True):
        rates[what][name] = float(value)
    return Rates(start_ms=rates["start"], ms_per_gop=rates["operations"], ms_per_gb=rates["bytes"], lanes=lanes)


def _work(kernels: Sequence[Kernel], lanes: int) -> dict[tuple[str, str], float]:
    """What a network's time is made of: (start, format), (operations, class) in 10^9, (bytes, class) in 10^9."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for kernel in kernels:
        name = f"{kernel.kind} {kernel.precision}"
        found["start", kernel.precision] += 1
        if kernel.operations:
            found["operations", name] += kernel.filled(lanes) / 1e9
        found["bytes", name] += kernel.bytes / 1e9
    return found


def calibration_file(device: str) -> Path:
    """Where a device's calibration is kept."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "edgekd" / "calibrations" / f"{device.replace(os.sep, '_').replace(':', '_')}.json"


def keep(calibration: Calibration) -> Path:
    """Store it, replacing an older one; gives the file."""
    file = calibration_file(calibration.device)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, calibration.model_dump_json(indent=2).encode())
    return file


def load_calibration(device: str) -> Calibration:
    """Raises DeviceError where the device was not calibrated."""
    file = calibration_file(device)
    try:
        return Calibration.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        known = sorted(path.stem for path in file.parent.glob("*.json"))
        raise DeviceError(
            f"no calibration of {device!r}{nearest(device, known)} `edgekd device calibrate {device}` makes one"
        ) from None
    except (OSError, ValidationError) as error:
        raise DeviceError(
            f"{file} cannot be read as a calibration: {str(error).splitlines()[0]}; calibrate again"
        ) from error
