"""data_sets: the data sets that lie in a folder, by the names of files and folders."""

from __future__ import annotations

import glob
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.base.contents import IMAGE_SUFFIXES, SOUND_SUFFIXES, files_below
from edgekd.base.listings import LISTS, METADATA, files_in_list

TRAIN, TEST, BESIDE = (
    ("train", "training"),
    ("test", "testing", "val", "valid", "validation", "dev"),
    ("labels", "data"),
)
ENDINGS = (".parquet", ".csv", ".jsonl", ".ndjson", ".npz", ".tar")  # in the order of preference
WORD = re.compile(rf"(?:^|(?<=[-_.]))({'|'.join((*TRAIN, *TEST))})(?=$|[-_.0-9])", re.IGNORECASE)
NUMBERED = re.compile(r"[-_.]?\d+(-of-\d+)?$")  # the end of the name of a part
MOST_FOLDERS = 200  # that are looked into
LEFT_OUT = frozenset({"build", "node_modules", "__pycache__", "venv"})


@dataclass(frozen=True)
class DataSet:
    """A data set by its references, as a recipe in `folder` writes them. test: none where train alone was found.

    further: splits that lie beside it, as validation.
    """

    folder: Path
    train: str
    test: str | None = None
    further: tuple[str, ...] = ()

    def at(self, reference: str) -> str:
        """The reference from here."""
        return str(self.folder / reference)

    def __str__(self) -> str:
        return f"{self.train} and {self.test}" if self.test else self.train


@dataclass(frozen=True)
class Group:
    """Files, or one folder, that belong to one split. key: the name without the split's word and the number of a part."""

    word: str
    key: tuple[str, str, str, bool]
    files: tuple[Path, ...]


def data_sets(folder: Path) -> list[DataSet]:
    """The data sets in a folder and two levels below it, in the order of preference.

    First come those with a test split, then those that are called train, then folders and lists of files, then other
    single files; of equal ones those that lie higher.
    """
    found: list[DataSet] = []
    taken: list[Path] = []
    for place in _places(folder):
        if any(place.is_relative_to(one) for one in taken):
            continue
        pairs = list(_pairs(place, folder))
        here = pairs or list(_whole(place, folder))
        found += here
        used = [Path(each.at(name)) for each in here for name in (each.train, each.test, *each.further) if name]
        taken += [path for path in used if path.is_dir() and path != folder]
    return sorted(found, key=_rank)


def _rank(found: DataSet) -> int:
    """The place of a data set in the order of preference."""
    if found.test is not None:
        return 0
    path = Path(found.train)
    if WORD.search(path.name) is not None:
        return 1
    is_list = path.suffix.lower() in LISTS and bool(files_in_list(found.folder / path))
    return 2 if is_list or path.suffix.lower() not in ENDINGS else 3


def pattern_of(files: Sequence[Path]) -> str:
    """A name that stands for exactly these files of one folder: a pattern where they differ in digits alone.

    Of names of different lengths the pattern ends with a `*`, which may take in a further file that begins so.
    """
    names = [file.name for file in files]
    if len(names) == 1:
        return names[0]
    if len({len(name) for name in names}) == 1:
        columns = [sorted(set(letters)) for letters in zip(*names, strict=True)]
        return "".join(glob.escape(each[0]) if len(each) == 1 else f"[{_range(each)}]" for each in columns)
    stem = NUMBERED.sub("", Path(names[0]).stem)
    return f"{glob.escape(stem)}*[0-9]{Path(names[0]).suffix}"


def _range(letters: Sequence[str]) -> str:
    """Sorted letters as they stand in brackets: 0-9 for ten digits."""
    is_run = len(letters) > 2 and ord(letters[-1]) - ord(letters[0]) == len(letters) - 1
    return f"{letters[0]}-{letters[-1]}" if is_run else "".join(letters)


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing of a folder that may not be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _places(folder: Path) -> Iterator[Path]:
    """The folder, those in it, and those in these, without hidden ones and those of builds."""
    level = [folder]
    for _ in range(3):
        yield from level
        level = [
            entry
            for place in level
            for entry in entries(place)
            if entry.is_dir() and not entry.name.startswith(".") and entry.name.lower() not in LEFT_OUT
        ][:MOST_FOLDERS]


def _pairs(place: Path, folder: Path) -> Iterator[DataSet]:
    """The data sets whose splits stand in the names of files or folders here."""
    groups = _groups(place)
    trains = [group for group in groups if group.word in TRAIN]
    tests = [group for group in groups if group.word in TEST]
    for train in trains:
        own = [group for group in tests if group.key == train.key]
        if not own and len({group.key for group in trains}) == 1 and len({group.key for group in tests}) == 1:
            own = tests  # train.parquet and a folder test
        names = [_named(group, folder) for group in own]
        yield DataSet(folder, _named(train, folder), names[0] if names else None, tuple(names[1:]))


def _groups(place: Path) -> list[Group]:
    """What lies here under the name of a split: train splits first, and test before validation."""
    parts: dict[tuple[str, tuple[str, str, str, bool]], list[Path]] = {}
    for entry in entries(place):
        ending = "" if entry.is_dir() else entry.suffix.lower()
        stem = entry.name if entry.is_dir() else entry.stem
        match = WORD.search(stem)
        if match is None or not (ending in ENDINGS if ending else entry.is_dir() and is_source(entry)):
            continue
        behind = stem[match.end() :]
        numbered = bool(ending) and NUMBERED.fullmatch(behind) is not None
        key = (stem[: match.start()], "" if numbered else behind, ending, numbered)
        parts.setdefault((match[1].lower(), key), []).append(entry)
    order = {word: n for n, word in enumerate((*TRAIN, *TEST))}
    preferred = {ending: n for n, ending in enumerate((*ENDINGS, ""))}
    groups = [Group(word, key, tuple(files)) for (word, key), files in parts.items()]
    return sorted(groups, key=lambda g: (order[g.word], g.key[3], bool(g.key[1]), preferred[g.key[2]], g.key))


def _named(group: Group, folder: Path) -> str:
    return _relative(group.files[0].parent / pattern_of(group.files), folder)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _whole(place: Path, folder: Path) -> Iterator[DataSet]:
    """The data sets that lie here in one piece: the folder itself, or single files."""
    if _tells_its_layout(place) or (place != folder and _is_of_classes(place)):  # builds would lie among the classes
        yield DataSet(folder, _relative(place, folder))
        return
    files = [file for ending in ENDINGS for file in sorted(place.glob(f"*{ending}")) if file.is_file()]
    for file in files:
        if WORD.search(file.stem) is None:
            name = _relative(file, folder)
            yield DataSet(folder, name, name if _holds_both(file) else None)


def _holds_both(file: Path) -> bool:
    """Whether a file of numpy has arrays of both splits, as x_train and x_test."""
    if file.suffix.lower() != ".npz":
        return False
    try:
        with zipfile.ZipFile(file) as stored:
            names = [name.removesuffix(".npy") for name in stored.namelist()]
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return False
    return all(any(name.endswith(f"_{split}") for name in names) for split in ("train", "test"))


def is_source(folder: Path) -> bool:
    """Whether a folder holds samples in a layout that is read: a list of its files, images and masks, or class folders."""
    return _tells_its_layout(folder) or _is_of_classes(folder)


def _tells_its_layout(folder: Path) -> bool:
    """Whether a list of its files, or folders called images and masks, tell what a folder holds."""
    has_list = any((folder / name).is_file() for name in METADATA)
    return has_list or ((folder / "images").is_dir() and (folder / "masks").is_dir())


def _is_of_classes(folder: Path) -> bool:
    return len(class_folders(folder)) > 1


def class_folders(folder: Path) -> list[str]:
    """The folders in a folder that hold pictures or sounds, without those that are called as a split."""
    return [
        entry.name
        for entry in entries(folder)
        if entry.is_dir()
        and not entry.name.startswith(".")
        and entry.name.lower() not in (*TRAIN, *TEST, *LEFT_OUT)
        and next(files_below(entry, IMAGE_SUFFIXES | SOUND_SUFFIXES), None) is not None
    ]
