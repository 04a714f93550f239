"""Local: this machine as a device, in a separate process."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekd.base.places import expanded
from edgekd.figures.candidate import Origin
from edgekd.measure.devices.process import OnLine, Result, copy_here, run_process


class Local:
    """This machine as a device. Files go to `folder`."""

    origin: Origin = "host"

    def __init__(self, name: str, folder: str, python: str = "") -> None:
        self.name = name
        self.folder = str(expanded(folder))
        self.python = python or sys.executable

    @property
    def address(self) -> str:
        return "local"

    def run(
        self,
        words: Sequence[str],
        *,
        stdin: bytes = b"",
        hold: bool = False,
        timeout_s: float = 60,
        on_line: OnLine | None = None,
    ) -> Result:
        return run_process(words, stdin=stdin, hold=hold, timeout_s=timeout_s, on_line=on_line)

    def put(self, files: Mapping[str, Path]) -> None:
        copy_here(self.name, files)

    def close(self) -> None:
        pass
