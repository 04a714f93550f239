"""run_process: one command of this machine with bounded time and output; what every kind of device is reached by. copy_here:
files for those that are this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgekd.errors import DeviceError

MOST_BYTES = 64 << 20  # of what a device says; more is no answer
MOST_SHOWN = 4000  # characters of it
LINE = 1 << 16  # bytes of one line of it
Told = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit code and what it wrote."""

    code: int
    out: bytes
    err: str


# of this process, whatever thread waits for them: `end_all` is what Ctrl-C does
RUNNING: set[subprocess.Popen[bytes]] = set()


def end_all() -> None:
    """End every command that is running; who waits for one is told that it ended."""
    for process in list(RUNNING):
        _end(process)


class TimedOut(DeviceError):
    """The command did not end in time."""


def copy_here(name: str, files: Mapping[str, Path]) -> None:
    """`put` of a device that is this machine: path there -> path here. Raises DeviceError where one cannot be written."""
    for path, source in files.items():
        try:
            shutil.copyfile(source, path)
        except OSError as error:
            raise DeviceError(f"{name}: {path} cannot be written: {error.strerror}") from error


def run_process(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    hold: bool = False,
    timeout_s: float = 60,
    told: Told | None = None,
    folder: Path | None = None,
) -> Result:
    """Run a command and give it `stdin`; with `hold` its input stays open until it ends.

    `told` is called with every line of its standard error, as it comes. Raises DeviceError where the command cannot be
    started, does not end in time, or says more than 64 MiB.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, start_new_session=True
        )  # fmt: skip
    except OSError as error:
        raise DeviceError(f"{command[0]} cannot be started: {error.strerror}") from error
    RUNNING.add(process)
    out, err = bytearray(), bytearray()
    readers = [
        threading.Thread(target=_read, args=(process.stdout, out, process, None), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, err, process, told), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        _wait(process, stdin, hold, time.monotonic() + timeout_s, command, timeout_s)
    finally:
        _end(process)
        RUNNING.discard(process)
        for reader in readers:
            # a process that it left behind may hold the pipes open; its words are not waited for
            reader.join(2)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
    if len(out) > MOST_BYTES:
        raise DeviceError(f"{command[0]} said more than {MOST_BYTES >> 20} MiB; it was stopped")
    return Result(process.returncode, bytes(out), clean(err.decode(errors="replace")))


def clean(text: str) -> str:
    """Somebody's words for the terminal: the last of them; lines stay, other control characters go."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text[-MOST_SHOWN:])


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"


def _wait(
    process: subprocess.Popen[bytes], stdin: bytes, hold: bool, end: float, command: Sequence[str], timeout_s: float
) -> None:
    writer = threading.Thread(target=_write, args=(process.stdin, stdin, hold), daemon=True)
    writer.start()
    try:
        process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimedOut(f"{Path(command[0]).name} did not answer within {timeout_s:g} s") from None


def _write(pipe: IO[bytes] | None, content: bytes, hold: bool) -> None:
    assert pipe is not None
    # one that ends early says why in its exit code
    with contextlib.suppress(OSError, ValueError):
        pipe.write(content)
        pipe.flush()
        if not hold:
            pipe.close()


def _read(pipe: IO[bytes] | None, into: bytearray, process: subprocess.Popen[bytes], told: Told | None) -> None:
    assert pipe is not None
    with pipe:
        for piece in iter(lambda: pipe.readline(LINE) if told else pipe.read1(LINE), b""):  # type: ignore[attr-defined]
            into += piece
            if told:
                told(piece.decode(errors="replace").rstrip("\n"))
            if len(into) > MOST_BYTES:
                _end(process)
                return


def _end(process: subprocess.Popen[bytes]) -> None:
    """The command and what it started, by their group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
