"""remove_strays: deletes the leftovers of killed builds from a cache.

These are drafts of files, locks, and checkpoints of stored stages. The draft of an unfinished stage stays: the next
build resumes from it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

IN_USE = "in-use-"
DRAFT = ".draft-"


def remove_strays(cache: Path) -> None:
    """Remove the leftovers of killed builds. The drafts of running builds stay."""
    running = {lock.stem.removeprefix(IN_USE).partition("-")[0] for lock in locks_in_use(cache)}
    for draft in cache.glob(".*.draft"):
        if draft.suffixes[-2:-1] not in [[f".{pid}"] for pid in running]:
            remove(draft)
    for draft in cache.glob(f"{DRAFT}*"):
        if (cache / draft.name.removeprefix(DRAFT)).exists():  # it was made again, and stored
            remove(draft)


def locks_in_use(cache: Path) -> Iterator[Path]:
    """The locks of the builds that use a cache now. Locks of dead processes are removed."""
    for lock in cache.glob(f".locks/{IN_USE}*.lock"):
        try:
            with FileLock(lock, timeout=0):
                lock.unlink(missing_ok=True)
        except Timeout:
            yield lock


def remove(path: Path) -> None:
    """Delete a file, link or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
