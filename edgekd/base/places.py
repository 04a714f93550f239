"""The user's own folders, and paths as a user writes them."""

from __future__ import annotations

import os
from pathlib import Path

from edgekd.errors import EdgekdError


def expanded(path: str | Path) -> Path:
    """The path with `~` replaced by the home folder.

    The `~name` of an unknown user stays as written: a file there is then not found.
    """
    return Path(os.path.expanduser(path))


def user_folder(variable: str, below_home: str) -> Path:
    """The folder that an environment variable names, or else a folder below the user's home.

    Raises EdgekdError if the user has no home.
    """
    if folder := os.environ.get(variable):
        return Path(folder)
    home = os.path.expanduser("~")
    if home == "~":
        raise EdgekdError(f"this user has no home folder to keep files in; set HOME or {variable} to a folder")
    return Path(home) / below_home
