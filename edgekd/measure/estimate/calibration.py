"""Calibration: a device's measured speed for each class of operator, as data and as a file named after the device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from edgekd.base.contents import write_atomically
from edgekd.base.places import user_folder
from edgekd.base.tables import Table
from edgekd.errors import DeviceError, nearest
from edgekd.measure.estimate.kernels import Kernel

LEAST_OPERATIONS = 1e6  # fewest operations of a network that is fitted on
ACCEPTED = 0.15  # median error on the held-out networks beyond which a calibration warns


class HeldOut(Table):
    """A network that was not fitted on. `noise` is the spread of its rounds as a share of the fastest."""

    name: str
    measured_ms: float
    estimated_ms: float
    noise: float

    @property
    def error(self) -> float:
        """The estimate's error as a share of the measured time."""
        return self.estimated_ms / self.measured_ms - 1


class Calibration(Table):
    """A device's speed by class of operator, e.g. "conv fp32", from the fastest of the rounds.

    In onnxruntime the times are a single thread's own processor time.
    """

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
    def conditions(self) -> str:
        return self.runtime if self.runtime.startswith("TensorRT") else f"{self.runtime}, 1 thread"

    @property
    def median_error(self) -> float:
        return float(np.median([abs(network.error) for network in self.held_out]))

    @property
    def range(self) -> tuple[float, float]:
        """The range of measured over estimated time that holds the middle four fifths of the held-out networks.

        The range always contains 1.
        """
        ratios = [network.measured_ms / network.estimated_ms for network in self.held_out]
        low, high = np.percentile(ratios, (10, 90))
        return min(float(low), 1.0), max(float(high), 1.0)


class Rates(Table):
    """The fitted rates; see `Calibration`."""

    start_ms: dict[str, float]
    ms_per_gop: dict[str, float]
    ms_per_gb: dict[str, float]
    lanes: int

    def ms(self, kernels: Sequence[Kernel]) -> float:
        return sum(kernel_ms(kernel, self) or 0.0 for kernel in kernels)


def kernel_ms(kernel: Kernel, rates: Rates | Calibration) -> float | None:
    """The estimated time of a kernel, or None if no calibration network had a kernel of its class."""
    name = f"{kernel.kind} {kernel.precision}"
    if name not in rates.ms_per_gb:
        return None
    arithmetic = kernel.filled(rates.lanes) / 1e9 * rates.ms_per_gop.get(name, 0.0)
    return rates.start_ms[kernel.precision] + arithmetic + kernel.bytes / 1e9 * rates.ms_per_gb[name]


def calibration_file(device: str) -> Path:
    """The path of a device's calibration."""
    base = user_folder("XDG_DATA_HOME", ".local/share")
    return base / "edgekd" / "calibrations" / f"{device.replace(os.sep, '_').replace(':', '_')}.json"


def keep(calibration: Calibration) -> Path:
    """Stores a calibration in place of an older one, and returns the file."""
    file = calibration_file(calibration.device)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, calibration.model_dump_json(indent=2).encode())
    return file


def load_calibration(device: str) -> Calibration:
    """The stored calibration of a device. Raises DeviceError if the device was not calibrated."""
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
