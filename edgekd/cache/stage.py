"""Stages and their cache: a stage's output is stored under a hash of everything that made it.

    run = Cache(folder)
    samples = run(decode, recipe.data.source("train"))        # an Artifact: made now, or found
    on      = TrainingSet(samples, recipe.data)
    outputs = run(record_teacher, teacher, on, recording)     # its key holds the key of `samples`

A stage is a plain function `f(*inputs, out)`: it reads its inputs and writes files into the folder `out`. The inputs are
artifacts (their keys enter the key), sections of the recipe, and plain values. Of a section the content of the named files
enters the key. Every file of the user's code enters too, with the versions of the libraries (edgekd.base.user_code). Stages
are versioned by `@stage(version, libraries)`. A new version of the stage, or of a library that shapes the output, makes
the output again. A build sees one version of each file, the first that it hashed (edgekd.base.contents). If a file
changed before or while a stage read it, the build stops and the stage is not stored.

The folder `out` is a draft. Its stamp, written last, makes the draft complete; one rename puts it in place. A build that
was killed finds its draft again. A complete draft is taken as it is. In an incomplete draft, a stage that leaves
checkpoints in `out / SCRATCH` resumes from them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from edgekd.base import processes
from edgekd.base.console import say
from edgekd.base.contents import Asked, Contents, Hash, hash_file, write_atomically
from edgekd.base.places import user_folder
from edgekd.base.references import Hashes, forget_changed, hashes_of, loaded
from edgekd.base.strays import IN_USE, remove, remove_strays
from edgekd.base.user_code import UserCode, code_of, version_of
from edgekd.cache.subject import subject_of
from edgekd.errors import CacheError, EdgekdError
from edgekd.recipe import file_of

STAMP = "artifact.json"
SCRATCH = "scratch"
LARGEST_STAMP = 10**7  # bytes; a stage writes some ten files


@dataclass(frozen=True)
class Artifact:
    """The stored output of a stage: `artifact / "name"` is the path of a file in it."""

    name: str
    key: str
    folder: Path
    seconds: float
    reused: bool
    make: Callable[[], Artifact] = field(repr=False, compare=False)
    of: str = field(default="", compare=False)  # the model that it is of, in words; empty: of none

    def __truediv__(self, file: str) -> Path:
        return self.folder / file

    @property
    def subject(self) -> str:
        """The artifact in words: the model that it is of, and the stage that made it."""
        return f"{self.of}, from {self.name}" if self.of else self.name

    def lineage(self) -> dict[str, Any]:
        """The artifact's row in a report."""
        about = {"name": self.name, "model": self.of, "key": self.key}
        return {**about, "seconds": round(self.seconds, 2), "reused": self.reused}


def stage(
    number: int = 1, libraries: Iterable[str] = (), *, of: str = "", together: bool = False, sharded: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks a function as a stage.

    number: the stage's version. libraries: packages whose versions shape the output. of: the parameter with the model that
    the stage is about, for the report's lineage; it enters no key. together: all processes of
    `accelerate launch` run the stage; otherwise the first runs it alone and the others wait. sharded: the processes only
    share the work, so their number does not enter the key.
    """

    def mark(function: Callable[..., None]) -> Callable[..., None]:
        function.stage_version = number  # type: ignore[attr-defined]
        function.stage_libraries = tuple(libraries)  # type: ignore[attr-defined]
        function.stage_of = of  # type: ignore[attr-defined]
        function.stage_together = together  # type: ignore[attr-defined]
        function.stage_sharded = sharded  # type: ignore[attr-defined]
        return function

    return mark


def default_cache() -> Path:
    """`$EDGEKD_CACHE`, or `edgekd` in the user's cache folder."""
    given = os.environ.get("EDGEKD_CACHE")
    return Path(given) if given else user_folder("XDG_CACHE_HOME", ".cache") / "edgekd"


class Stored(BaseModel):
    """A file of an artifact: the hash of its content, and its size and times when it was hashed."""

    model_config = ConfigDict(strict=True)

    size: Annotated[int, Field(ge=0)]
    mtime_ns: int
    ctime_ns: int
    sha256: Hash


class Stamp(BaseModel):
    """The content of `artifact.json`, which describes an artifact. A file of another form counts as damaged."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    name: str
    key: Hash
    made_for: str
    seconds: Annotated[float, Field(ge=0)]
    files: dict[str, Stored]


def read_stamp(folder: Path) -> Stamp | None:
    """The stamp in `folder`; None if it is missing or damaged."""
    file = folder / STAMP
    try:
        if not stat.S_ISREG(file.stat().st_mode) or file.stat().st_size > LARGEST_STAMP:
            return None
        return Stamp.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


class Cache:
    """Runs stages and stores their outputs; see the module. `recheck`: all files and artifacts are read again."""

    def __init__(self, folder: Path, purpose: str = "", *, recheck: bool = False) -> None:
        self.folder = folder
        self.purpose = purpose  # what the build is for, for `edgekd cache`; enters no key
        self.recheck = recheck
        self.started = time.time()
        self.artifacts: list[Artifact] = []
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".locks").mkdir(exist_ok=True)
            remove_strays(folder)
            self._in_use = FileLock(folder / ".locks" / f"{IN_USE}{os.getpid()}-{id(self)}.lock", thread_local=False)
            self._in_use.acquire(timeout=0)
        forget_changed()
        self._contents = Contents(folder / "hashes.json", afresh=recheck)
        self._code: dict[str, tuple[UserCode, Hashes]] = {}

    def __call__(self, function: Callable[..., None], *inputs: Any) -> Artifact:
        """The artifact of `function(*inputs, out=folder)`, made now or found in the cache.

        Raises CacheError if the disk is full, if the folder cannot be written, or if another build is making the same
        artifact.
        """
        if processes.RANK > 0:
            for _ in processes.invitations():
                function(*inputs, out=self._draft(self._folder(function, inputs)))
        artifact = self._get(function, inputs)
        if processes.RANK == 0 and processes.SIZE > 1:
            processes.dismiss()
        self.artifacts.append(artifact)
        say(f"  {artifact.name:<16} {'from the cache' if artifact.reused else f'{artifact.seconds:.1f} s'}")
        return artifact

    def _folder(self, function: Callable[..., None], inputs: tuple[Any, ...]) -> Path:
        return self.folder / f"{function.__name__}-{self.key(function, *inputs)[:20]}"

    def _draft(self, folder: Path) -> Path:
        return self.folder / f".draft-{folder.name}"

    def key(self, function: Callable[..., None], *inputs: Any) -> str:
        """The hash of everything that shapes the artifact."""
        libraries = {name: version_of(name) for name in function.stage_libraries}  # type: ignore[attr-defined]
        depends = function.stage_together and not function.stage_sharded  # type: ignore[attr-defined]
        number = processes.SIZE if depends else 1
        about = [function.__name__, function.stage_version, libraries, number]  # type: ignore[attr-defined]
        made_of = [about, [self.describe(value) for value in inputs]]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def describe(self, value: Any) -> Any:
        """The part of an input that enters the key."""
        if isinstance(value, Artifact):
            return value.key
        if is_dataclass(value) and not isinstance(value, type):
            return {about.name: self.describe(getattr(value, about.name)) for about in fields(value)}
        if isinstance(value, BaseModel):
            ignored: frozenset[str] = getattr(value, "shapes_nothing", frozenset())
            references: frozenset[str] = getattr(value, "references", frozenset())
            decoded: frozenset[str] = getattr(value, "decoded", frozenset())
            names = [
                name for name, about in type(value).model_fields.items() if not about.exclude and name not in ignored
            ]
            suffixes: frozenset[str] | None = getattr(value, "suffixes", None)
            described = {
                name: _method(getattr(value, name)) if name in decoded
                else self._reference(getattr(value, name), suffixes) if name in references
                else self.describe(getattr(value, name))
                for name in names
            }  # fmt: skip
            if libraries := getattr(value, "libraries", ()):
                described["libraries"] = {name: version_of(name) for name in libraries}
            return described | {name: self.describe(item) for name, item in (value.model_extra or {}).items()}
        if isinstance(value, dict):  # the order counts: layers stand from shallow to deep
            return [[str(key), self.describe(item)] for key, item in value.items()]
        if isinstance(value, Path):
            return self._contents.of(value)
        if isinstance(value, tuple | list):
            return [self.describe(item) for item in value]
        return value

    def _reference(self, value: str | None, suffixes: frozenset[str] | None = None) -> Any:
        if value is None:
            return None
        kind = value.partition(":")[0]
        if kind == "python":
            return self._user_code(value)
        if kind == "timm":
            return [value, version_of("timm")]
        file = file_of(value)
        if file is None:
            return value
        return [value.replace(str(file), file.name), self._contents.of(file, is_onnx=kind == "onnx", suffixes=suffixes)]

    def _user_code(self, reference: str) -> Any:
        """The function's name and everything that edgekd.base.user_code counts.

        Code counts as it was when this build first asked.
        """
        if reference not in self._code:
            self._code[reference] = code_of(reference), hashes_of(reference)
        file, (code, hashes) = file_of(reference), self._code[reference]
        named = {text: self._contents.of(path) for text, path in sorted(code.named.items())}
        libraries = {name: version_of(name) for name in sorted(code.libraries)}
        return [reference if file is None else reference.replace(str(file), file.name), hashes, named, libraries]

    def user_code(self) -> list[str]:
        """The parts of the user's code that enter keys in this build: modules, and files that their texts name."""
        counted = [(*code.modules, *code.named) for code, _ in self._code.values()]
        return sorted({name for names in counted for name in names if name.partition(".")[0] != "edgekd"})

    def changed(self) -> list[str]:
        """The files whose content has changed since this build first read them."""
        changed = self._contents.changed()
        for code, hashes in self._code.values():
            changed += [file for name, file in code.modules.items() if not _holds(file, hashes.get(name))]
        return sorted(set(map(str, changed)))

    def close(self) -> None:
        """Release the cache: from now on `edgekd cache --prune` may prune it."""
        self._in_use.release()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _get(self, function: Callable[..., None], inputs: tuple[Any, ...], thorough: bool = False) -> Artifact:
        name, key = function.__name__, self.key(function, *inputs)
        folder = self._folder(function, inputs)
        thorough |= self.recheck

        def found(reused: bool) -> Artifact:
            stamp = read_stamp(folder)
            if stamp is None:
                raise CacheError(f"{folder} was removed or changed while this build used it; build again")
            os.utime(folder / STAMP)  # when it was last used, for `edgekd cache`
            again = lambda: self._get(function, inputs, thorough=True)  # noqa: E731
            return Artifact(name, key, folder, stamp.seconds, reused, again, subject_of(function, inputs))

        with _explained(self.folder):
            if damage(folder, thorough=thorough, key=key) is None:
                return found(reused=True)
            # The stage is about to read its inputs: a damaged input would spoil the output.
            inputs = tuple(self._intact_inside(value) for value in inputs)
            with self._lock(name, key):
                self._discard_damaged(folder, key)
                if folder.exists():
                    return found(reused=True)
                if is_complete := damage(self._draft(folder), thorough=True, key=key) is None:
                    _put_in_place(self._draft(folder), folder)  # a build was killed just before this step
                else:
                    self._make(function, inputs, folder, key)
                return found(reused=is_complete)

    def has(self, function: Callable[..., None], *inputs: Any) -> bool:
        """Whether the artifact is stored here, so that a call would not run the stage."""
        return damage(self._folder(function, inputs), thorough=False, key=self.key(function, *inputs)) is None

    def intact(self, artifact: Artifact) -> Artifact:
        """The artifact with every stored byte checked. A damaged artifact is reported and made again."""
        return artifact if damage(artifact.folder, thorough=True) is None else artifact.make()

    def _intact_inside(self, value: Any) -> Any:
        """The input with every artifact inside it checked byte by byte."""
        if isinstance(value, Artifact):
            return self.intact(value)
        if isinstance(value, tuple):
            return tuple(self._intact_inside(item) for item in value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(
                value, **{about.name: self._intact_inside(getattr(value, about.name)) for about in fields(value)}
            )
        return value

    def _discard_damaged(self, folder: Path, key: str) -> None:
        if os.path.lexists(folder) and (what := damage(folder, thorough=True, key=key)) is not None:
            say(f"cache: {folder.name} is damaged ({what}): made again")
            remove(folder)

    def _make(self, function: Callable[..., None], inputs: tuple[Any, ...], folder: Path, key: str) -> None:
        draft = self._draft(folder)
        if os.path.lexists(draft) and (draft.is_symlink() or not draft.is_dir()):
            remove(draft)
        (draft / SCRATCH).mkdir(parents=True, exist_ok=True)
        for stray in (draft / STAMP, *list(draft.rglob(".*.draft*"))):  # files and folders that were half written
            remove(stray)
        self._contents.asked.clear()
        self.describe(list(inputs))
        read = list(self._contents.asked)
        self._refuse_changed(read, function.__name__)
        started = time.time()
        if processes.SIZE > 1 and function.stage_together:  # type: ignore[attr-defined]
            processes.invite()
        try:
            function(*inputs, out=draft)
        except EdgekdError:
            raise
        except Exception as error:
            # Libraries report a full disk with their own exceptions.
            if os.strerror(errno.ENOSPC) in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(draft)) from error
            raise
        try:
            self._refuse_changed(read, function.__name__)
        except CacheError:
            remove(draft)
            raise
        made = [file for file in sorted(draft.rglob("*")) if file.is_file() and draft / SCRATCH not in file.parents]
        files = {file.relative_to(draft).as_posix(): _stored(file) for file in made}
        stamp = Stamp(
            name=function.__name__, key=key, made_for=self.purpose, seconds=max(0.0, time.time() - started), files=files
        )
        write_atomically(draft / STAMP, stamp.model_dump_json(indent=1).encode())
        _put_in_place(draft, folder)

    def _refuse_changed(self, read: list[Asked], name: str) -> None:
        """Raise CacheError if a file or code that a stage reads differs from the version in the stage's key.

        Code is loaded once in each build, so the loaded version is compared.
        """
        changed = [str(path) for path in self._contents.changed(read)]
        changed += [
            reference
            for reference, (_, then) in self._code.items()
            if (ran := loaded(reference)) is not None and ran != then
        ]
        if changed:
            raise CacheError(
                f"{', '.join(changed)} changed while this build ran, before or while '{name}' read it; build again "
                "(what was finished before is kept)"
            )

    @contextmanager
    def _lock(self, name: str, key: str) -> Iterator[None]:
        path = self.folder / ".locks" / f"{name}-{key[:20]}"
        owner = path.with_suffix(".owner")
        try:
            with FileLock(f"{path}.lock", timeout=0):
                owner.write_text(str(os.getpid()))
                yield
        except Timeout as error:
            pid = owner.read_text(errors="replace")[:20] if owner.is_file() else "unknown"
            raise CacheError(
                f"another build (process {pid}) is making '{name}' in the cache {self.folder}; wait until it has ended and "
                "build again (what it makes is used), or give this build a cache of its own with --cache"
            ) from error


def damage(folder: Path, *, thorough: bool, key: str | None = None) -> str | None:
    """The problem with a stored artifact, or None. With `key`, an artifact of another key counts as damaged.

    The size and times of every file are compared. The hash is compared if the times differ, or with `thorough`.
    """
    stamp = read_stamp(folder)
    if stamp is None:
        return f"{STAMP} cannot be read"
    if key is not None and stamp.key != key:
        return f"{STAMP} is that of another key"
    for name, stored in stamp.files.items():
        try:
            state = (folder / name).stat()
            if not stat.S_ISREG(state.st_mode):
                return f"{name} is no file"
            if state.st_size != stored.size:
                return f"{name} has another size"
            is_same = (state.st_mtime_ns, state.st_ctime_ns) == (stored.mtime_ns, stored.ctime_ns)
            if (thorough or not is_same) and hash_file(folder / name) != stored.sha256:
                return f"{name} has another content"
        except (OSError, ValueError):
            return f"{name} is missing"
    return None


def _method(samples: object) -> str | None:
    """The method that makes synthetic samples; None if the samples are decoded from a file or a function."""
    return samples if isinstance(samples, str) and samples.startswith("synthetic:") else None


def _holds(file: Path, digest: str | None) -> bool:
    try:
        return hash_file(file) == digest
    except OSError:
        return False


def _stored(file: Path) -> Stored:
    state = file.stat()
    return Stored(size=state.st_size, mtime_ns=state.st_mtime_ns, ctime_ns=state.st_ctime_ns, sha256=hash_file(file))


def _put_in_place(draft: Path, folder: Path) -> None:
    """Turn a complete draft into an artifact: remove its checkpoints and rename its folder."""
    remove(draft / SCRATCH)
    os.replace(draft, folder)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns errors of the operating system into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheError(
                f"no space left on the disk of the cache {folder}; free some (`edgekd cache --prune --days 30`), or give another with "
                "--cache; what is finished is kept, and the build goes on from there"
            ) from error
        inside = Path(error.filename).is_relative_to(folder) if isinstance(error.filename, str) else True
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR) and inside:
            raise CacheError(
                f"cannot write {error.filename or folder}: {error.strerror}; give another folder with --cache"
            ) from error
        raise
