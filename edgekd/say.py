"""What edgekd prints while it works: short lines and progress bars on standard error, from the main process only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgekd.team import RANK

QUIET = RANK != 0
console = Console(stderr=True, quiet=QUIET, highlight=False)


def say(text: str) -> None:
    """One line."""
    console.print(text, markup=False)


def shows_bars() -> bool:
    """Standard error is a terminal."""
    return sys.stderr.isatty()


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar while the block runs; call what it gives with `advance` (and `note="..."` for terms beside the bar)."""
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
