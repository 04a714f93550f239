"""Adb: an Android device. adb's user has no Python there, so only the user's benchmark program runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekd.errors import DeviceError
from edgekd.figures.candidate import Origin
from edgekd.measure.devices.process import OnLine, Result, run_process

COPY_TIMEOUT_S = 1800
CODE = "edgekd-exit-code:"


class Adb:
    """The device with this serial number (`adb devices`)."""

    origin: Origin = "device"
    python = ""

    def __init__(self, name: str, serial: str, folder: str = "/data/local/tmp/edgekd") -> None:
        if not re.fullmatch(r"[\w.:][\w.:-]*", serial):
            raise DeviceError(f"{serial!r} is no serial number; `adb devices` lists them")
        self.name, self.serial, self.folder = name, serial, folder

    @property
    def address(self) -> str:
        return f"adb {self.serial}"

    def run(
        self,
        words: Sequence[str],
        *,
        stdin: bytes = b"",
        hold: bool = False,
        timeout_s: float = 60,
        on_line: OnLine | None = None,
    ) -> Result:
        """Runs a command as in the protocol. The exit code is echoed, because older versions of adb return none."""
        script = f"{shlex.join(words)}; echo {CODE}$?"
        result = self._adb("shell", "-T", script, stdin=stdin, hold=hold, timeout_s=timeout_s, on_line=on_line)
        out, mark, code = result.out.rpartition(CODE.encode())
        if not mark or not code.strip().isdigit():
            raise DeviceError(f"{self.name}: the connection was lost; check `adb devices` and run the command again")
        return Result(int(code), out, result.err)

    def put(self, files: Mapping[str, Path]) -> None:
        for path, source in files.items():
            self._adb("push", str(source.resolve()), path, timeout_s=COPY_TIMEOUT_S)

    def close(self) -> None:
        pass

    def _adb(
        self,
        *words: str,
        stdin: bytes = b"",
        hold: bool = False,
        timeout_s: float = 60,
        on_line: OnLine | None = None,
    ) -> Result:
        command = ["adb", "-s", self.serial, *words]
        result = run_process(command, stdin=stdin, hold=hold, timeout_s=timeout_s, on_line=on_line)
        if result.code != 0 and CODE.encode() not in result.out:
            reason = result.err.strip().splitlines()[-1:] or [f"exit code {result.code}"]
            raise DeviceError(f"{self.name} ({self.address}): {reason[0]}; is it connected, unlocked and authorised?")
        return result
