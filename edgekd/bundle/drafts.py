"""draft_of, put_in_place: a bundle is written beside the one that stands there, and takes its place in one step."""

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
    """An empty folder beside a bundle's, gone afterwards; others that ask for one at the same place wait."""
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
    """What killed builds left beside a bundle's folder; one that is being written is waited for."""
    if folder.parent.is_dir():
        with _alone(folder.parent):
            _remove_drafts(folder)


def _remove_drafts(folder: Path) -> None:
    for draft in folder.parent.iterdir():
        if not draft.name.startswith(f".{folder.name}{DRAFT}"):
            continue
        if draft.name.endswith(OLD) and not folder.exists():  # killed between two renames: it is the bundle
            draft.rename(folder)
        else:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Others that ask for the same folder wait; nothing is left behind in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def put_in_place(draft: Path, folder: Path) -> None:
    """Swap the draft with the bundle that stands there; afterwards `draft` is the old one, to be removed."""
    for path in draft.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if not folder.exists():
        draft.rename(folder)
    elif not exchange(draft, folder):
        # no such call on this system: for an instant there is no bundle, but never half of one
        old = draft.with_name(draft.name + OLD)
        folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old)


def exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step (Linux, renameat2); False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    at_cwd, rename_exchange = -100, 2
    return bool(renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), rename_exchange) == 0)
