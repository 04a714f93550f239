"""Where facts lie beside a checkout."""

from __future__ import annotations

import os
import signal
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
SHARED = Path(os.environ.get("EDGEKD_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def hear_interrupts() -> None:
    """For a child process: what a shell runs in the background ignores Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
