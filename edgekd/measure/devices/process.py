"""run_process: runs a command of this machine with bounded time and output; all kinds of device use it.

copy_here: copies files for devices that are this machine.
"""

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

MOST_BYTES = 64 << 20  # largest output of a device; more is not an answer
MOST_SHOWN = 4000  # characters of the output that are shown
LINE = 1 << 16  # bytes of a line of the output
OnLine = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """The end of a command: its exit code and its output."""

    code: int
    out: bytes
    err: str


# The commands that this process runs, in all threads: on Ctrl-C `end_all` ends them.
RUNNING: set[subprocess.Popen[bytes]] = set()


def end_all() -> None:
    """Ends every running command. The waiting threads see that their commands ended."""
    for process in list(RUNNING):
        _end(process)


class TimedOut(DeviceError):
    """The command did not end in time."""


def copy_here(name: str, files: Mapping[str, Path]) -> None:
    """`put` for a device that is this machine: path there -> path here. Raises DeviceError for a failed copy."""
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
    on_line: OnLine | None = None,
    folder: Path | None = None,
) -> Result:
    """Runs a command and gives it `stdin`. With `hold` its input stays open until it ends.

    `on_line` is called with every line of its standard error, as it comes. Raises DeviceError if the command cannot be
    started, does not end in time, or writes more than 64 MiB.
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
        threading.Thread(target=_read, args=(process.stderr, err, process, on_line), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        _wait(process, stdin, hold, time.monotonic() + timeout_s, command, timeout_s)
    finally:
        _end(process)
        RUNNING.discard(process)
        for reader in readers:
            # A process that the command left behind may hold the pipes open, so the wait is short.
            reader.join(2)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
    if len(out) > MOST_BYTES:
        raise DeviceError(f"{command[0]} said more than {MOST_BYTES >> 20} MiB; it was stopped")
    return Result(process.returncode, bytes(out), clean(err.decode(errors="replace")))


def clean(text: str) -> str:
    """A foreign text for the terminal: its end, with lines, but without other control characters."""
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
    # A command that ends early gives the reason in its exit code.
    with contextlib.suppress(OSError, ValueError):
        pipe.write(content)
        pipe.flush()
        if not hold:
            pipe.close()


def _read(pipe: IO[bytes] | None, into: bytearray, process: subprocess.Popen[bytes], on_line: OnLine | None) -> None:
    assert pipe is not None
    with pipe:
        for piece in iter(lambda: pipe.readline(LINE) if on_line else pipe.read1(LINE), b""):  # type: ignore[attr-defined]
            into += piece
            if on_line:
                on_line(piece.decode(errors="replace").rstrip("\n"))
            if len(into) > MOST_BYTES:
                _end(process)
                return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a command and its children, as a process group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
