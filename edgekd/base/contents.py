"""Contents: hashes of files and folders, remembered by the file's state and pinned while a build runs.

A file's state is its device, inode, size, modification time and change time. The state differs even if a file was
replaced by another of the same size and modification time. A hash is not remembered if the file changed in the last
seconds before it: a second change within the same tick of the clock would be invisible.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter

from edgekd.base.listings import LISTS, METADATA, files_in_list
from edgekd.errors import CacheError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})
DOUBT_S = 2.0  # the coarsest clock of a file system (FAT)
State = tuple[int, int, int, int, int]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# a file's state, its hash, and the files that an ONNX file keeps its weights in
Known = tuple[State, Hash, tuple[str, ...]]
KNOWN = TypeAdapter(dict[str, Known], config=ConfigDict(strict=True))


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one step: neither a reader nor a power cut leaves half of the file."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def state_of(path: Path) -> State:
    """The state of a file; for a link, that of the link's target. Raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_pattern(path: Path) -> bool:
    """Whether a path's name stands for several files: it holds `*`, `?` or `[`, and no file is called so."""
    return any(letter in path.name for letter in "*?[") and not path.exists()


def matching(path: Path) -> list[Path]:
    """The files that a pattern stands for, sorted; none for a path that is no pattern."""
    try:
        return sorted(path.parent.glob(path.name)) if is_pattern(path) else []
    except ValueError:  # `**` beside other letters
        return []


class Asked(NamedTuple):
    """A path whose content was asked for.

    is_onnx: the files that hold the model's weights count too. suffixes: the files that count in a folder; none: images.
    """

    path: Path
    is_onnx: bool
    suffixes: frozenset[str] | None = None


class Contents:
    """Hashes of the user's files, remembered in `file`. With `afresh` every file is read again.

    The answer for a path stays the same as long as this object lives: a build sees one version of each file.
    `asked` lists the paths asked for; `changed` compares them with the files of now.
    """

    def __init__(self, file: Path, *, afresh: bool = False) -> None:
        self.file = file
        self.asked: list[Asked] = []
        self._pinned: dict[Asked, Any] = {}
        self._is_new = False
        self._known: dict[str, Known] = {}
        if not afresh:
            try:
                self._known = KNOWN.validate_json(file.read_bytes())
            except (OSError, ValueError):  # absent or damaged: read again
                self._known = {}

    def of(self, path: Path, *, is_onnx: bool = False, suffixes: frozenset[str] | None = None) -> Any:
        """The hash of a file, or the names and hashes of a folder's or a pattern's images, or files of other `suffixes`.

        None if no file lies at `path`. With `is_onnx` the files that hold the model's weights are hashed too. The files
        that a CSV or JSONL lists are hashed with it. Raises CacheError for a file that another program is writing.
        """
        asked = Asked(Path(os.path.abspath(path)), is_onnx, suffixes)
        self.asked.append(asked)
        if asked not in self._pinned:
            self._pinned[asked] = self._of(asked)
            self._remember()
        return self._pinned[asked]

    def changed(self, among: Iterable[Asked] | None = None) -> list[Path]:
        """The paths whose content has changed since `of` was called: of `among`, by default of all paths."""
        asked = self._pinned if among is None else dict.fromkeys(among)
        return [one.path for one in asked if self._of(one) != self._pinned[one]]

    def _of(self, asked: Asked) -> Any:
        path = asked.path
        if path.is_dir():
            found: Any = _folder(path, self._file, asked.suffixes)
            listed = {name: self._of(Asked(path / name, False)) for name in METADATA if (path / name).is_file()}
            return [found, listed] if listed else found
        if is_pattern(path):
            return {file.name: self._of(Asked(file, False)) for file in matching(path)}
        if path.suffix.lower() in LISTS:
            return [self._file(path), {str(file): self._file(path.parent / file) for file in files_in_list(path)}]
        if not asked.is_onnx or (found := self._file(path, is_onnx=True)) is None:
            return self._file(path)
        return [found, {name: self._file(path.parent / name) for name in self._known[f"onnx:{path}"][2]}]

    def _file(self, path: Path, *, is_onnx: bool = False) -> str | None:
        key = f"onnx:{path}" if is_onnx else str(path)
        for _ in range(3):
            try:
                state = state_of(path)
                if not stat.S_ISREG(os.stat(path).st_mode):  # a device or a pipe has no end
                    return None
            except (OSError, ValueError):
                return None
            known = self._known.get(key)
            if known is not None and known[0] == state:
                return known[1]
            self._known[key] = (state, hash_file(path), _outside(path) if is_onnx else ())
            self._is_new = True
            if state_of(path) == state:
                return self._known[key][1]
        raise CacheError(f"{path} is being written; build again when that has ended")

    def _remember(self) -> None:
        if not self._is_new:
            return
        if self.file.is_dir() and not self.file.is_symlink():  # damaged
            shutil.rmtree(self.file)
        now = time.time_ns()
        sure = {name: known for name, known in self._known.items() if now - known[0][4] > DOUBT_S * 1e9}
        write_atomically(self.file, KNOWN.dump_json(sure))
        self._is_new = False


def _folder(
    folder: Path, hash_of: Callable[[Path], str | None], suffixes: frozenset[str] | None
) -> dict[str, dict[str, str | None]]:
    """Every class folder (also an empty folder) with its images. Links are followed as the decoder follows them.

    Where other files than images count, those beside the class folders count too, under the name "".
    """
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = {
        entry.name: {file.relative_to(entry).as_posix(): hash_of(file) for file in sorted(files_below(entry, suffixes))}
        for entry in classes
    }
    if suffixes is not None:
        found[""] = {file.name: hash_of(file) for file in sorted(folder.iterdir()) if file.suffix.lower() in suffixes}
    return found


def files_below(folder: Path, suffixes: frozenset[str] | None = None) -> Iterator[Path]:
    """The files below a class folder, by default images. The folder may be a link; links to folders below it are not followed."""
    counted = IMAGE_SUFFIXES if suffixes is None else suffixes
    return (file for file in folder.rglob("*") if file.suffix.lower() in counted)


def _outside(path: Path) -> tuple[str, ...]:
    """The names of the files that hold an ONNX file's tensors. Empty if the file is not ONNX."""
    import onnx  # costs a third of a second: only where a file is new

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf raises many kinds of errors; the code that runs the file reports them
        return ()
    return tuple(sorted(set(_locations(model))))


def _locations(message: Any) -> Iterator[str]:
    """The file names of all external tensors in a protobuf message.

    Bodies of If and Loop, attributes and local functions are searched too.
    """
    if message.DESCRIPTOR.name == "TensorProto":
        yield from (entry.value for entry in message.external_data if entry.key == "location")
        return
    for about, value in message.ListFields():
        if about.message_type is not None:
            for item in value if about.is_repeated else (value,):
                yield from _locations(item)
