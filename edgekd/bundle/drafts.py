"""draft_of, put_in_place: write a bundle beside its predecessor, then replace the predecessor in one step."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.errors import BundleError

DRAFT, OLD = ".draft-", ".old"


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """An empty folder beside a bundle's folder, removed afterwards. Others who want a draft there wait.

    Raises BundleError if the disk is full.
    """
    with _alone(folder.parent):
        _remove_drafts(folder)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}{DRAFT}", dir=folder.parent))
        try:
            draft.chmod(0o755)
            yield draft
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise BundleError(
                f"no space left on the disk of {folder.parent}, where the bundle is written; free some, or give another place (for a "
                "build with --output); what is finished is kept, and it goes on from there"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def remove_drafts(folder: Path) -> None:
    """Removes the drafts of killed builds beside a bundle's folder, after waiting for a draft in use."""
    if folder.parent.is_dir():
        with _alone(folder.parent):
            _remove_drafts(folder)


def _remove_drafts(folder: Path) -> None:
    for draft in folder.parent.iterdir():
        if not draft.name.startswith(f".{folder.name}{DRAFT}"):
            continue
        if draft.name.endswith(OLD) and not folder.exists():  # a build was killed between two renames
            draft.rename(folder)
        else:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Locks a folder while the block runs. Others who lock the same folder wait. No lock file is left behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def put_in_place(draft: Path, folder: Path) -> None:
    """Swaps the draft with the existing bundle. Afterwards `draft` is the old bundle, to be removed."""
    for path in draft.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if not folder.exists():
        draft.rename(folder)
    elif not exchange(draft, folder):
        # Without an exchange of folders, no bundle exists for an instant, but never half a bundle.
        old = draft.with_name(draft.name + OLD)
        folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old)


def exchange(a: Path, b: Path) -> bool:
    """Swaps two folders in one step (Linux, renameat2). Returns False if the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    at_cwd, rename_exchange = -100, 2
    return bool(renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), rename_exchange) == 0)
