"""calibrate: finds a device's speed for each class of operator, from small networks timed on the device.

A kernel of class c and number format p is modelled as `start_p + operations / rate_c + bytes / bandwidth_c`. Its channels
are counted in full vectors. This is the roofline with its two terms added. A sum can be fitted by non-negative least
squares, and neither term hides the other. Networks that were measured in the same rounds, but not fitted on, show the
quality.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import nnls

from edgekd.base.console import say
from edgekd.base.json_text import parse_json
from edgekd.errors import DeviceError
from edgekd.measure.at_work import Workplace
from edgekd.measure.devices import Device
from edgekd.measure.estimate.calibration import Calibration, HeldOut, Rates
from edgekd.measure.estimate.kernels import Kernel, Precision, read_kernels
from edgekd.measure.estimate.nets import write_networks
from edgekd.measure.fitness import INSTALL
from edgekd.measure.remote import probe
from edgekd.runtime.check import precision_of
from edgekd.scripts import SCRIPTS

# A device needs some ten seconds to build an engine, but no time for a session: fewer networks for TensorRT.
NETWORKS: Mapping[str, Mapping[Precision, int]] = {
    "onnxruntime": {"fp32": 84, "int8": 70},
    "tensorrt": {"fp32": 28, "fp16": 42, "int8": 42},
}
ROUNDS, BLOCK_MS = 6, 25.0
SECONDS = {"onnxruntime": 3600, "tensorrt": 4 * 3600}  # longest wait for a device's answer
LANES = (1, 4, 8, 16, 32)
FOLDS = 5
TIGHT = 0.02  # smaller residuals (as a share) count alike, because the measurement's noise is larger


def calibrate(
    device: Device,
    held_out: Mapping[str, Path],
    *,
    runtime: str = "onnxruntime",
    rounds: int = ROUNDS,
    networks: Mapping[Precision, int] | None = None,
) -> Calibration:
    """Times small networks and `held_out` (name -> ONNX file) on the device in the same rounds, and fits rates.

    runtime: `onnxruntime` on a single thread, or `tensorrt`, without copies to and from the GPU; networks: format -> how
    many. Raises DeviceError for an emulated CPU, whose time says nothing, and if the device cannot run the networks.
    """
    refuse_emulated(device)
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        network_files = [
            path
            for precision, count in (networks or NETWORKS[runtime]).items()
            for path in write_networks(Path(folder), count, precision, runtime)
        ]
        say(f"  timing {len(network_files)} networks to fit on and {len(held_out)} held out on {device.name}")
        fitted = {path.name: path for path in network_files}
        outside = {name: f"{_precision(path)}-held-out-{i}.onnx" for i, (name, path) in enumerate(held_out.items())}
        measured = time_on(
            device, {**fitted, **{outside[name]: path for name, path in held_out.items()}}, rounds, runtime
        )
        times = {name: float(rounds.min()) for name, rounds in measured.cpu_ms.items()}
        fit = fit_rates([read_kernels(path) for path in network_files], [times[name] for name in fitted])
        spread = {name: float(np.ptp(rounds) / rounds.min()) for name, rounds in measured.cpu_ms.items()}
        errors = [abs(fit.ms(read_kernels(path)) / times[name] - 1) for name, path in fitted.items()]
        checked = [
            HeldOut(
                name=name,
                measured_ms=times[outside[name]],
                estimated_ms=fit.ms(read_kernels(path)),
                noise=spread[outside[name]],
            )
            for name, path in held_out.items()
        ]
    return Calibration(
        device=device.name, machine=measured.machine, runtime=measured.runtime, created=datetime.now(UTC).isoformat(timespec="seconds"),
        start_ms=fit.start_ms, ms_per_gop=fit.ms_per_gop, ms_per_gb=fit.ms_per_gb, lanes=fit.lanes, fitted_on=len(network_files),
        fit_error=float(np.median(errors)), noise=float(np.median(list(spread.values()))), waited=measured.waited, held_out=tuple(checked),
    )  # fmt: skip


def _precision(path: Path) -> str:
    """The precision that build_engine.py is asked for."""
    return precision_of(onnx.load(path, load_external_data=False))


def refuse_emulated(device: Device) -> None:
    """Raises DeviceError for an emulated CPU."""
    if device.origin == "emulated":
        raise DeviceError(f"{device.name} is emulated: its milliseconds are nobody's; calibrate a real device")


def runtime_there(device: Device, asked: str = "") -> str:
    """The runtime for a calibration: the asked one, else TensorRT if the device has it, else onnxruntime.

    Raises DeviceError if the device lacks the runtime, before any network is created.
    """
    facts = probe(device)
    runtime = asked or ("tensorrt" if "tensorrt" in facts.able else "onnxruntime")
    if runtime not in facts.able:
        raise DeviceError(
            f"{device.name} ({facts.title}) has no {runtime} or no numpy for its Python {facts.python}; it has: "
            f"{', '.join(facts.able) or 'neither runtime'}. To install: {INSTALL[runtime]}; {INSTALL['numpy']}"
        )
    return runtime


class Timings:
    """A device's timings: name -> milliseconds of each round, in the thread's own processor time."""

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


def time_on(device: Device, models: Mapping[str, Path], rounds: int, runtime: str = "onnxruntime") -> Timings:
    """Times name -> model on the device in interleaved rounds; see device_timings.py. Raises DeviceError."""
    with Workplace(device) as workplace:
        script = workplace.script("device_timings.py", SCRIPTS / "run.py", SCRIPTS / "build_engine.py")
        paths = {workplace.put(path, name): name for name, path in models.items()}
        words = [script, runtime, str(rounds), str(BLOCK_MS), *paths]
        out = workplace.python(words, timeout_s=SECONDS[runtime])
        try:
            answer = parse_json(out.decode().strip().splitlines()[-1])
            for kind in ("cpu_ms", "wall_ms"):
                answer[kind] = {paths[path]: values for path, values in answer[kind].items()}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DeviceError(f"{device.name}: the times that it gave make no sense: {error!r}") from error
    return Timings(answer, list(models), device.name)


def fit_rates(networks: Sequence[Sequence[Kernel]], times_ms: Sequence[float]) -> Rates:
    """The rates whose sums come closest to the times: non-negative, with the least absolute relative error.

    Absolute errors (by reweighted least squares) keep a network that the machine disturbed from bending the fit. The vector
    width is the one with the best prediction of left-out networks (5-fold cross-validation).
    """
    times = np.asarray(times_ms, np.float64)
    lanes = min(LANES, key=lambda width: _cross_error(networks, times, width))
    return _fit(networks, times, lanes)


def _cross_error(networks: Sequence[Sequence[Kernel]], times_ms: NDArray[np.float64], lanes: int) -> float:
    """The median relative error on the networks of each fold, predicted by the fit on the others."""
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
    """The terms of a network's time: (start, format), (operations, class) in 10^9, (bytes, class) in 10^9."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for kernel in kernels:
        name = f"{kernel.kind} {kernel.precision}"
        found["start", kernel.precision] += 1
        if kernel.operations:
            found["operations", name] += kernel.filled(lanes) / 1e9
        found["bytes", name] += kernel.bytes / 1e9
    return found
