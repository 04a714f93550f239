"""Workplace: our folder on a device for a single task, removed afterwards. Files are copied in and out."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from edgekd.errors import DeviceError
from edgekd.measure.devices import Device
from edgekd.scripts import SCRIPTS

PIECE = 32 << 20  # bytes of a file in an answer
MAKE = "import os, sys; os.makedirs(sys.argv[1])"
REMOVE = "import shutil, sys; shutil.rmtree(sys.argv[1])"
READ = "import sys; f = open(sys.argv[1], 'rb'); f.seek(int(sys.argv[2])); sys.stdout.buffer.write(f.read(int(sys.argv[3])))"


class Workplace:
    """`put`, `python` and `get` in a new folder on the device. Raises DeviceError if the device fails."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.folder = f"{device.folder}/task-{secrets.token_hex(8)}"

    def __enter__(self) -> Self:
        self.python(["-c", MAKE, self.folder])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.device.run([self.device.python, "-c", REMOVE, self.folder])

    def put(self, source: Path, name: str = "") -> str:
        """Copies a file and returns its path on the device."""
        path = f"{self.folder}/{name or source.name}"
        self.device.put({path: source})
        return path

    def script(self, name: str, *beside: Path) -> str:
        """Copies a script for devices, with the files that it needs beside it. Returns its path on the device.

        device_task.py is copied too: it ends the script when the connection is lost.
        """
        for path in (*beside, SCRIPTS / "device_task.py"):
            self.put(path)
        return self.put(SCRIPTS / name)

    def python(self, words: Sequence[str], *, timeout_s: float = 60) -> bytes:
        """Runs the device's Python with these words and returns its standard output. Raises DeviceError if it fails."""
        if not self.device.python:
            raise DeviceError(f"{self.device.name} ({self.device.address}): no Python runs there")
        done = self.device.run([self.device.python, *words], hold=True, timeout_s=timeout_s)
        if done.code != 0:
            last = "".join(done.err.strip().splitlines()[-1:])
            raise DeviceError(f"{self.device.name}: {Path(words[0]).name} ended with exit code {done.code}: {last}")
        return done.out

    def get(self, name: str) -> bytes:
        """The content of a file on the device, fetched in pieces that fit an answer."""
        content = b""
        while piece := self.python(["-c", READ, f"{self.folder}/{name}", str(len(content)), str(PIECE)]):
            content += piece
            if len(piece) < PIECE:
                break
        return content
