"""Console output: short lines and progress bars on standard error. Only the main process prints."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


def say(text: str) -> None:
    """Print one line on standard error."""
    console.print(text, markup=False)


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
