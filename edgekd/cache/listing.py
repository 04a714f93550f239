"""The list of the cache's contents with sizes and ages, and a way to free their space."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from edgekd.base.strays import IN_USE, locks_in_use, remove
from edgekd.cache.stage import STAMP
from edgekd.errors import CacheError
from edgekd.figures.outputs import CachedStage, CacheOutput


@dataclass(frozen=True)
class Stored:
    """An artifact, or the draft of a stage that did not end."""

    folder: Path
    size_mb: float
    age_days: float
    made_for: str
    finished: bool


def stored(cache: Path) -> list[Stored]:
    """All contents of the cache, most recently used first."""
    if not cache.is_dir():
        return []
    found = []
    for folder in cache.iterdir():
        if not folder.is_dir() or folder.name == ".locks":
            continue
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        used = folder / STAMP
        last = used.stat().st_mtime if used.exists() else folder.stat().st_mtime
        finished = not folder.name.startswith(".draft-")
        found.append(Stored(folder, size / 1e6, (time.time() - last) / 86400, _made_for(used), finished))
    return sorted(found, key=lambda item: item.age_days)


def list_cache(cache: Path) -> str:
    """The cache's contents as text, one line for each artifact."""
    items = stored(cache)
    lines = [
        f"{item.size_mb:10.1f} MB  {_age(item.age_days):>9}  {item.folder.name.removeprefix('.draft-'):38}  "
        f"{item.made_for if item.finished else '(not finished)'}".rstrip()
        for item in items
    ]
    return "\n".join([*lines, f"{sum(item.size_mb for item in items):10.1f} MB  in all, in {cache}"])


def cache_output(cache: Path) -> CacheOutput:
    """The cache's contents as a record."""
    items = stored(cache)
    stages = tuple(
        CachedStage(
            name=item.folder.name.removeprefix(".draft-"), size_mb=item.size_mb, age_days=item.age_days,
            made_for=item.made_for, is_finished=item.finished,
        )
        for item in items
    )  # fmt: skip
    return CacheOutput(folder=str(cache), size_mb=sum(item.size_mb for item in items), stages=stages)


def unused(cache: Path, days: float) -> list[Stored]:
    """The artifacts that were not used for `days`."""
    return [item for item in stored(cache) if item.age_days >= days]


class _Note(BaseModel):
    made_for: str


def _made_for(stamp: Path) -> str:
    """The recipe and the target that an artifact was first made for. Other builds may use the artifact too."""
    try:
        return _Note.model_validate_json(stamp.read_bytes()).made_for
    except FileNotFoundError:
        return ""
    except (OSError, ValueError):
        return "(damaged: it is made again when it is asked for)"


def prune_cache(cache: Path, days: float) -> str:
    """Delete the artifacts that were not used for `days`.

    Raises CacheError while a build uses the cache, because the build may need any artifact.
    """
    for lock in locks_in_use(cache):
        pid = lock.stem.removeprefix(IN_USE).partition("-")[0]
        raise CacheError(f"a build (process {pid}) uses the cache {cache}; prune when it has ended")
    old = unused(cache, days)
    for item in old:
        remove(item.folder)
    return f"freed {sum(item.size_mb for item in old):.1f} MB in {cache}"


def _age(days: float) -> str:
    for unit, length in (("d", 1.0), ("h", 1 / 24), ("min", 1 / 1440)):
        if days >= length:
            return f"{days / length:.0f} {unit}"
    return "just now"
