"""line_of_user: the file and line of the user's code in which an exception arose."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

EDGEKD = Path(__file__).parent.parent
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def line_of_user(error: BaseException) -> str:
    """The last file and line of the traceback that is neither edgekd's nor a library's; empty if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename
        if file.startswith("<") or file.startswith(INSTALLED) or "site-packages" in file:
            continue
        if not Path(file).is_relative_to(EDGEKD):
            return f"{file}, line {frame.lineno}"
    return ""
