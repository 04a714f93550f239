"""Stages and their cache: a stage's output is stored under a hash of everything that made it.

    run = Cache(folder)
    samples = run(decode, recipe.data)                 # an Artifact: made now, or found
    cached  = run(record, samples, teacher, ...)       # its key holds the key of `samples`

A stage is a plain function `f(*inputs, out)`: it reads its inputs and writes files into the folder `out`. Its inputs are
artifacts (their keys enter the key), sections of the recipe (with the content of the files that these name) and plain
values. Stages are versioned by `@stage(version, libraries)`: a change of the version, or of a library that shapes the
output, makes it anew. The folder `out` is a draft that is renamed into place at the end; a build that was killed finds its
own draft again, so a stage that leaves checkpoints in `out / SCRATCH` goes on where it was. These are removed once the
artifact is stored, not before: a kill at no moment loses them.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from edgekd import team
from edgekd.errors import CacheError, EdgekdError
from edgekd.recipe import file_of
from edgekd.say import say

STAMP = "artifact.json"
SCRATCH = "scratch"
IN_USE = "in-use-"


@dataclass(frozen=True)
class Artifact:
    """A stored output: `folder / "file"` is what the stage wrote there."""

    name: str
    key: str
    folder: Path
    seconds: float
    reused: bool
    make: Callable[[], Artifact] = field(repr=False, compare=False)

    def __truediv__(self, file: str) -> Path:
        return self.folder / file

    def lineage(self) -> dict[str, Any]:
        return {"name": self.name, "key": self.key, "seconds": round(self.seconds, 2), "reused": self.reused}


def stage(
    number: int = 1, libraries: Iterable[str] = (), *, together: bool = False, sharded: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks a function as a stage: its version, the packages whose versions shape its output, and whether all processes
    of `accelerate launch` run it (else the first alone, while the others wait). Where they only share out the work
    (`sharded`), their number shapes nothing."""

    def mark(function: Callable[..., None]) -> Callable[..., None]:
        function.stage_version = number  # type: ignore[attr-defined]
        function.stage_libraries = tuple(libraries)  # type: ignore[attr-defined]
        function.stage_together = together  # type: ignore[attr-defined]
        function.stage_sharded = sharded  # type: ignore[attr-defined]
        return function

    return mark


def default_cache() -> Path:
    """`$EDGEKD_CACHE`, or `edgekd` in the user's cache folder."""
    given = os.environ.get("EDGEKD_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgekd"


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Cache:
    """Runs stages; see the module."""

    def __init__(self, folder: Path, purpose: str = "") -> None:
        self.folder = folder
        self.purpose = purpose  # what the build is for, for `edgekd cache`; enters no key
        self.artifacts: list[Artifact] = []
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".locks").mkdir(exist_ok=True)
            self._in_use = FileLock(folder / ".locks" / f"{IN_USE}{os.getpid()}-{id(self)}.lock", thread_local=False)
            self._in_use.acquire(timeout=0)
        self._hashes = _ContentHashes(folder / "hashes.json")

    def __call__(self, function: Callable[..., None], *inputs: Any) -> Artifact:
        """The artifact of `function(*inputs, out=folder)`, made now or found.

        Raises CacheError where the folder is full or cannot be written, or another build is making the same artifact.
        """
        if team.RANK > 0:
            for _ in team.invitations():
                function(*inputs, out=self._draft(self._folder(function, inputs)))
        artifact = self._get(function, inputs)
        if team.RANK == 0 and team.SIZE > 1:
            team.dismiss()
        self.artifacts.append(artifact)
        say(f"  {artifact.name:<16} {'from the cache' if artifact.reused else f'{artifact.seconds:.1f} s'}")
        return artifact

    def _folder(self, function: Callable[..., None], inputs: tuple[Any, ...]) -> Path:
        return self.folder / f"{function.__name__}-{self.key(function, *inputs)[:20]}"

    def _draft(self, folder: Path) -> Path:
        return self.folder / f".draft-{folder.name}"

    def key(self, function: Callable[..., None], *inputs: Any) -> str:
        """The hash of all that shapes the artifact."""
        libraries = {name: version(name) for name in function.stage_libraries}  # type: ignore[attr-defined]
        depends = function.stage_together and not function.stage_sharded  # type: ignore[attr-defined]
        processes = team.SIZE if depends else 1
        about = [function.__name__, function.stage_version, libraries, processes]  # type: ignore[attr-defined]
        made_of = [about, [self.describe(value) for value in inputs]]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def describe(self, value: Any) -> Any:
        """What of an input enters the key."""
        if isinstance(value, Artifact):
            return value.key
        if is_dataclass(value) and not isinstance(value, type):
            return {about.name: self.describe(getattr(value, about.name)) for about in fields(value)}
        if isinstance(value, BaseModel):
            ignored: frozenset[str] = getattr(value, "shapes_nothing", frozenset())
            references: frozenset[str] = getattr(value, "references", frozenset())
            names = [
                name for name, about in type(value).model_fields.items() if not about.exclude and name not in ignored
            ]
            described = {
                name: (self._reference if name in references else self.describe)(getattr(value, name)) for name in names
            }
            return described | {name: self.describe(item) for name, item in (value.model_extra or {}).items()}
        if isinstance(value, dict):  # the order counts: layers stand from shallow to deep
            return [[str(key), self.describe(item)] for key, item in value.items()]
        if isinstance(value, Path):
            return self._hashes.of(value)
        if isinstance(value, tuple | list):
            return [self.describe(item) for item in value]
        return value

    def _reference(self, value: str | None) -> Any:
        file = file_of(value) if value else None
        if value is not None and file is None and value.startswith("python:"):
            return [value, self._module(value.split(":")[1])]
        if value is None or file is None:
            return value
        return [value.replace(str(file), file.name), self._hashes.of(file)]

    def _module(self, name: str) -> Any:
        """The content of a module that a reference names, not of those that it imports."""
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        return self._hashes.of(Path(spec.origin)) if spec is not None and spec.origin else None

    def close(self) -> None:
        """The cache is no longer in use: it may be pruned."""
        self._in_use.release()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _get(self, function: Callable[..., None], inputs: tuple[Any, ...], thorough: bool = False) -> Artifact:
        name, key = function.__name__, self.key(function, *inputs)
        folder = self._folder(function, inputs)

        def found(reused: bool) -> Artifact:
            stamp = json.loads((folder / STAMP).read_text())
            os.utime(folder / STAMP)  # when it was last used, for `edgekd cache`
            return Artifact(
                name, key, folder, stamp["seconds"], reused, lambda: self._get(function, inputs, thorough=True)
            )

        with _explained(self.folder):
            if (folder / STAMP).exists() and damage(folder, thorough=thorough) is None:
                return found(reused=True)
            # What the stage is about to read is checked byte by byte first.
            inputs = tuple(self._intact_inside(value) for value in inputs)
            with self._lock(name, key):
                self._discard_damaged(folder)
                if not (folder / STAMP).exists():
                    self._make(function, inputs, folder, key)
                    return found(reused=False)
                return found(reused=True)

    def intact(self, artifact: Artifact) -> Artifact:
        """The artifact with every stored byte checked; a damaged one is said and made again."""
        return artifact if damage(artifact.folder, thorough=True) is None else artifact.make()

    def _intact_inside(self, value: Any) -> Any:
        """The same input with every artifact in it checked."""
        if isinstance(value, Artifact):
            return self.intact(value)
        if isinstance(value, tuple):
            return tuple(self._intact_inside(item) for item in value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(
                value, **{about.name: self._intact_inside(getattr(value, about.name)) for about in fields(value)}
            )
        return value

    def _discard_damaged(self, folder: Path) -> None:
        if folder.exists() and (what := damage(folder, thorough=True)) is not None:
            say(f"cache: {folder.name} is damaged ({what}): made again")
            shutil.rmtree(folder)

    def _make(self, function: Callable[..., None], inputs: tuple[Any, ...], folder: Path, key: str) -> None:
        draft = self._draft(folder)
        (draft / SCRATCH).mkdir(parents=True, exist_ok=True)
        started = time.time()
        if team.SIZE > 1 and function.stage_together:  # type: ignore[attr-defined]
            team.invite()
        try:
            function(*inputs, out=draft)
        except EdgekdError:
            raise
        except Exception as error:
            # Libraries tell of a full disk in exceptions of their own.
            if os.strerror(errno.ENOSPC) in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(draft)) from error
            raise
        made = [file for file in sorted(draft.rglob("*")) if file.is_file() and draft / SCRATCH not in file.parents]
        files = {file.relative_to(draft).as_posix(): _stamp_of(file) for file in made}
        seconds = time.time() - started
        stamp = {
            "name": function.__name__, "key": key, "made_for": self.purpose, "seconds": seconds, "files": files,
        }  # fmt: skip
        write_atomically(draft / STAMP, json.dumps(stamp, indent=1).encode())
        os.replace(draft, folder)
        shutil.rmtree(folder / SCRATCH)

    @contextmanager
    def _lock(self, name: str, key: str) -> Iterator[None]:
        path = self.folder / ".locks" / f"{name}-{key[:20]}"
        owner = path.with_suffix(".owner")
        try:
            with FileLock(f"{path}.lock", timeout=0):
                owner.write_text(str(os.getpid()))
                yield
        except Timeout as error:
            pid = owner.read_text() if owner.exists() else "unknown"
            raise CacheError(
                f"another build (process {pid}) is making '{name}' in the cache {self.folder}; wait until it has ended and "
                "build again (what it makes is used), or give this build a cache of its own with --cache"
            ) from error


def damage(folder: Path, *, thorough: bool) -> str | None:
    """What is wrong with a stored artifact, or None.

    Every file's size and modification time are compared, and its hash where these differ or `thorough` is asked for.
    """
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / STAMP).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return f"{STAMP} cannot be read"
    for name, stamp in files.items():
        try:
            state = (folder / name).stat()
        except FileNotFoundError:
            return f"{name} is missing"
        if state.st_size != stamp["size"]:
            return f"{name} has another size"
        if (thorough or state.st_mtime_ns != stamp["mtime_ns"]) and hash_file(folder / name) != stamp["sha256"]:
            return f"{name} has another content"
    return None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a power cut, never sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _stamp_of(file: Path) -> dict[str, Any]:
    state = file.stat()
    return {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": hash_file(file)}


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns the operating system's refusals into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheError(
                f"no space left on the disk of the cache {folder}; free some (`edgekd cache --prune`), or give another with "
                "--cache; what is finished is kept, and the build goes on from there"
            ) from error
        inside = Path(error.filename).is_relative_to(folder) if isinstance(error.filename, str) else True
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR) and inside:
            raise CacheError(
                f"cannot write {error.filename or folder}: {error.strerror}; give another folder with --cache"
            ) from error
        raise


class _ContentHashes:
    """Content hashes of the user's files, remembered by size and modification time, so that a second build is quick."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.changes = 0
        try:
            self.known: dict[str, list[Any]] = json.loads(file.read_text())
        except (OSError, ValueError):
            self.known = {}

    def of(self, path: Path) -> Any:
        """A file's hash; for a folder, or a pattern with `*`, its files' names and hashes; None where there is nothing."""
        before = self.changes
        found = self._of(path)
        if self.changes != before:
            write_atomically(self.file, json.dumps(self.known).encode())
        return found

    def _of(self, path: Path) -> Any:
        if path.is_dir():
            return {
                file.relative_to(path).as_posix(): self._of(file) for file in sorted(path.rglob("*")) if file.is_file()
            }
        if "*" in path.name:
            return {file.name: self._of(file) for file in sorted(path.parent.glob(path.name))}
        if not path.is_file():
            return None
        state = path.stat()
        now = [state.st_size, state.st_mtime_ns]
        known = self.known.get(str(path.resolve()))
        if known is None or known[:2] != now:
            known = [*now, hash_file(path)]
            self.known[str(path.resolve())] = known
            self.changes += 1
        return known[2]
