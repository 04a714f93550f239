"""Device: a machine that a bundle is measured on. Each kind is a small file; KINDS names them.

A device runs commands and takes files; its answers are data. Everything else (probing, measuring, shipping) is written
once, in edgekd.measure.remote and device_runner.py, with these few verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgekd.figures.candidate import Origin
from edgekd.measure.devices.adb import Adb
from edgekd.measure.devices.emulated import Emulated
from edgekd.measure.devices.local import Local
from edgekd.measure.devices.process import OnLine, Result
from edgekd.measure.devices.ssh import Ssh

__all__ = ["KINDS", "Device", "OnLine", "Result"]


class Device(Protocol):
    """The protocol of all kinds of device. Every verb raises DeviceError if the device cannot be reached."""

    name: str
    origin: Origin  # the origin of its figures; an `emulated` device is never asked for a latency
    folder: str  # our folder there: absolute, or relative to the folder in which `run` starts
    python: str  # the interpreter for device_runner.py; empty if the device has none

    @property
    def address(self) -> str:
        """The kind and address, for `edgekd device list`."""
        ...

    def run(
        self,
        words: Sequence[str],
        *,
        stdin: bytes = b"",
        hold: bool = False,
        timeout_s: float = 60,
        on_line: OnLine | None = None,
    ) -> Result:
        """Runs a command on the device. Each word arrives unchanged.

        hold: the command's input stays open after `stdin`, so that it notices a lost connection; on_line: gets each line of
        the command's standard error.
        """
        ...

    def put(self, files: Mapping[str, Path]) -> None:
        """Copies files: path there -> path here. The folders there must exist."""
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


# Kind -> device from its name, its address and its further settings.
KINDS: Mapping[str, Callable[..., Device]] = {
    "local": lambda name, _, **settings: Local(name, **settings),
    "ssh": Ssh,
    "adb": Adb,
    "emulated": Emulated,
}
