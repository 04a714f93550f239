"""from_tars: the samples of WebDataset's shards. In a tar, files of one name are a sample: 000.jpg and 000.cls, or 000.json."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.base.contents import IMAGE_SUFFIXES
from edgekd.base.json_text import parse_json
from edgekd.base.names import in_a_line
from edgekd.data.classes import of_texts
from edgekd.data.encoded import EncodedSplit, Wanted, first_line
from edgekd.data.labels import COLUMNS, Lazily, Targets, listed_columns, targets_of
from edgekd.errors import DataError
from edgekd.inputs import Files
from edgekd.recipe import ClassifyTask, SegmentTask


@dataclass(frozen=True)
class Member:
    """A file in a tar that is not compressed: where its bytes stand."""

    tar: Path
    at: int
    size: int

    def read(self) -> bytes:
        """Its bytes."""
        with open(self.tar, "rb") as opened:
            opened.seek(self.at)
            return opened.read(self.size)


@dataclass(frozen=True)
class Group:
    """A sample: its name without the endings, and its files by ending, in lower case, as jpg, cls, mask.png."""

    tar: Path
    name: str
    files: dict[str, Member] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.tar}: {in_a_line(self.name)}"


def from_tars(tars: Sequence[Path], kind: Files, wanted: Wanted) -> EncodedSplit:
    """The samples of shards, one after the other. `data.column` names the ending of samples, `data.label` that of labels.

    Without them a sample is the file that has an ending of the kind. Its label is in `cls`, or in `json` under the name of a
    label column. Raises DataError for a tar that cannot be read, and for a sample without a label.
    """
    groups = [group for tar in tars for group in groups_of(tar)]
    samples = [_sample(group, kind, wanted) for group in groups]

    def read(i: int) -> bytes:
        return samples[i].read()

    def name_of(i: int) -> str:
        return str(groups[i])

    if isinstance(wanted.task, SegmentTask):
        masks = [_mask(group, samples[i], wanted.label) for i, group in enumerate(groups)]
        targets = Targets(Lazily(len(masks), lambda i: masks[i].read()), wanted.task.classes)
    elif isinstance(wanted.task, ClassifyTask):
        targets = of_texts([_text(group, wanted) for group in groups], wanted.classes, name_of, str(tars[0]))
    else:
        about = [_json(group) for group in groups]
        labels = listed_columns(wanted.label, wanted.task, list(about[0]) if about else [])
        targets = targets_of(wanted.task, {name: [one.get(name) for one in about] for name in labels}, str(tars[0]))
    return EncodedSplit(targets.values, targets.names, read, name_of)


def groups_of(tar: Path) -> list[Group]:
    """The samples of a tar, in the order of their first files. Raises DataError for a file that is none."""
    groups: dict[str, Group] = {}
    try:
        with tarfile.open(tar, "r:") as opened:
            for member in opened:
                folder, _, base = member.name.rpartition("/")
                stem, dot, ending = base.partition(".")
                if not member.isreg() or not stem or not dot:  # folders, links, hidden files, files without an ending
                    continue
                group = groups.setdefault(f"{folder}/{stem}".lstrip("./"), Group(tar, f"{folder}/{stem}".lstrip("./")))
                group.files[ending.lower()] = Member(tar, member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(f"{tar}: not a tar that can be read, without compression ({first_line(error)})") from error
    return list(groups.values())


def _sample(group: Group, kind: Files, wanted: Wanted) -> Member:
    endings = (
        [wanted.column.lower().lstrip(".")] if wanted.column else [one[1:] for one in kind.suffixes or IMAGE_SUFFIXES]
    )
    found = [member for ending, member in group.files.items() if ending in endings]
    if len(found) != 1:
        have = in_a_line(", ".join(group.files))
        raise DataError(
            f"{group} has {len(found)} {kind.many} among its files ({have}); name the ending of the right one in data.column"
        )
    return found[0]


def _text(group: Group, wanted: Wanted) -> str:
    """A sample's class as its label file has it."""
    label = wanted.label if isinstance(wanted.label, str) else "cls"
    if label in group.files:
        return group.files[label].read().decode("utf-8", "replace").strip()
    about = _json(group)
    (name,) = listed_columns(wanted.label, wanted.task, list(about))
    value = about.get(name, about.get("cls"))
    if not isinstance(value, str | int) or isinstance(value, bool):
        have = in_a_line(", ".join([*group.files, *about]))
        raise DataError(
            f"{group} has no label; give each sample a file with the ending cls, or {name} in its json: {have}"
        )
    return str(value).strip()


def _json(group: Group) -> dict[str, Any]:
    if "json" not in group.files:
        return {}
    try:
        about = parse_json(group.files["json"].read())
    except ValueError as error:
        raise DataError(f"{group}: its json cannot be read ({first_line(error)})") from error
    return about if isinstance(about, dict) else {}


def _mask(group: Group, sample: Member, label: Any) -> Member:
    usual = (label,) if isinstance(label, str) else (*COLUMNS["segment"], "seg")
    for ending, member in group.files.items():
        if member != sample and (ending in usual or ending.partition(".")[0] in usual):
            return member
    have = in_a_line(", ".join(group.files))
    raise DataError(
        f"{group} has no mask among its files ({have}); call it NAME.mask.png, or name its ending in data.label"
    )
