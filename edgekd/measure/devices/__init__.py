"""Device: a machine that a bundle is measured on. One small file a kind; KINDS names them.

A device runs words and takes files; what it says is data. Everything else (probing, measuring, shipping) is written
once, in edgekd.measure.remote and device_runner.py, on these few verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgekd.figures.figures import Origin
from edgekd.measure.devices.adb import Adb
from edgekd.measure.devices.emulated import Emulated
from edgekd.measure.devices.local import Local
from edgekd.measure.devices.process import Result, Told
from edgekd.measure.devices.ssh import Ssh

__all__ = ["KINDS", "Device", "Result", "Told"]


class Device(Protocol):
    """What a kind implements. Every verb raises DeviceError where the device cannot be reached."""

    name: str
    origin: Origin  # what its figures are called; an `emulated` one is never asked for a latency
    folder: str  # of ours there: absolute, or relative to where `run` starts
    python: str  # the interpreter that device_runner.py runs in; empty: there is none

    @property
    def address(self) -> str:
        """The kind and where it is, for `edgekd device list`."""
        ...

    def run(
        self,
        words: Sequence[str],
        *,
        stdin: bytes = b"",
        hold: bool = False,
        timeout_s: float = 60,
        told: Told | None = None,
    ) -> Result:
        """Run a command there; each word arrives as it is.

        hold: its input stays open after `stdin`, so that it notices a lost connection; told: is given each line of its
        standard error.
        """
        ...

    def put(self, files: Mapping[str, Path]) -> None:
        """Copy files: path there -> path here. The folders there exist."""
        ...

    def close(self) -> None:
        """Give back what the connection holds."""
        ...


# Kind -> device from its name, its address and its further settings.
KINDS: Mapping[str, Callable[..., Device]] = {
    "local": lambda name, _, **settings: Local(name, **settings),
    "ssh": Ssh,
    "adb": Adb,
    "emulated": Emulated,
}
