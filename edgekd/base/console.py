"""Console output: short lines and progress bars on standard error. Only the main process prints."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgekd.base.processes import RANK

QUIET = RANK != 0
console = Console(stderr=True, quiet=QUIET, highlight=False)


IN_ASCII = str.maketrans(
    {"±": "+-", "▸": ">", "×": "x", "→": "->", "←": "<-", "–": "-", "—": "-", "…": "...", "≤": "<=", "≥": ">=", "µ": "u",
     "─": "-", "━": "=", "│": "|", "°": " deg ", "²": "^2", "’": "'"}
)  # fmt: skip


def print_what_can_be_printed() -> None:
    """Replace characters that standard output or error cannot encode (LANG=C).

    Each becomes its nearest ASCII text, or a question mark.
    """

    def nearest(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        text = error.object[error.start : error.end].translate(IN_ASCII)
        return "".join(c if c.isascii() else "?" for c in text), error.end

    codecs.register_error("edgekd.nearest", nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="edgekd.nearest")


_LOGS: list[list[str]] = []


def say(text: str) -> None:
    """Print one line on standard error, and keep it in the logs that are being recorded."""
    for log in _LOGS:
        log.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}")
    console.print(text, markup=False)


@contextmanager
def recorded() -> Iterator[None]:
    """Keep the lines that are printed while the block runs, for `log_text`. Of nested blocks each keeps its own."""
    _LOGS.append([])
    try:
        yield
    finally:
        _LOGS.pop()


def log_text() -> str:
    """The lines since the innermost `recorded` began, each with its time in UTC; empty outside such a block.

    The user's folders are left out: `~` is the home folder, `.` the working folder.
    """
    lines = "".join(f"{line}\n" for line in (_LOGS[-1] if _LOGS else []))
    for folder, short in ((Path.cwd(), "."), (Path.home(), "~")):
        if folder != folder.parent:  # the root is in every path
            lines = lines.replace(str(folder), short)
    return lines


def time_left(seconds: float) -> str:
    """', about 12 min left' for a line about a long stage; empty below 90 seconds."""
    if seconds < 90:
        return ""
    return f", about {seconds / 60:.0f} min left" if seconds < 5400 else f", about {seconds / 3600:.1f} h left"


def shows_bars() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a progress bar while the block runs.

    The block gets a function: call `advance(n)` for each n steps; `note="..."` is the text beside the bar.
    """
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not shows_bars() or QUIET) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(n: int, note: str | None = None) -> None:
            if note is not None:
                bar.update(task, note=note)
            bar.advance(task, n)

        yield advance
