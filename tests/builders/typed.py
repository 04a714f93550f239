"""The command as a user types it, run in this process: importing torch for each would take most of the tests' time."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest import mock

from edgekd.cli import main
from tests.builders.measuring import SHORT


def typed(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `edgekd WORDS` prints in the folder `cwd`, and its exit code; a build times its candidates for milliseconds."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code: object = 0
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["edgekd", *words]),
    ):
        try:
            main(SHORT)
        except SystemExit as end:
            code = end.code
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(words, code if isinstance(code, int) else 1, *texts)
