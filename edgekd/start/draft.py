"""Draft: what the samples of a data set decide of a recipe, and what a user is told of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.base.names import in_a_line
from edgekd.data.encoded import EncodedSplit, listed
from edgekd.data.sources import with_classes_of
from edgekd.errors import DataError
from edgekd.recipe import AnyTask, ClassifyTask, MultilabelTask, RegressTask, SegmentTask
from edgekd.start.data_sets import DataSet
from edgekd.start.guess import Guess

SHARE = 0.2  # of train, where there is no test split
LARGE = 10.0  # values beyond are told


@dataclass(frozen=True)
class Draft:
    """The parts of a recipe that follow from the samples.

    before, data: lines of [data] above and below train and test; task, distill: lines of these tables; student: the
    built-in model, instead: others for these samples; told: lines for the user. guess: what the samples are; size: height and width of pictures.
    """

    data: tuple[str, ...]
    student: str
    instead: str
    told: tuple[str, ...]
    before: tuple[str, ...] = ()
    task: tuple[str, ...] = ()
    distill: tuple[str, ...] = ()
    guess: Guess | None = None
    size: tuple[int, int] | None = None


def line(key: str, value: str, why: str = "") -> str:
    """A line of TOML, with a comment behind it."""
    written = f"{key} = {value}"
    return f"{written:43} # {why}" if why else written


def text(value: str) -> str:
    """A text of TOML."""
    return json.dumps(value, ensure_ascii=False)


def texts(values: Sequence[str]) -> str:
    """A list of texts of TOML."""
    return f"[{', '.join(map(text, values))}]"


def columns(guess: Guess) -> tuple[str, ...]:
    """The lines that name the columns of samples and labels, where a recipe must."""
    named = (("column", guess.column, "of the samples"), ("label", guess.label, "of the labels"))
    return tuple(line(key, text(value), f"the column {why}") for key, value, why in named if value)


def reading_task(guess: Guess) -> AnyTask:
    """The task that a data set's labels are opened with."""
    match guess.task:
        case "multilabel":
            return MultilabelTask(kind="multilabel")
        case "regress":
            return RegressTask(kind="regress")
        case "segment":
            return SegmentTask(kind="segment", classes=("0", "1"))
        case _:
            return ClassifyTask()


def counted(found: DataSet, train: EncodedSplit, test: EncodedSplit | None, many: str) -> str:
    """The line with the numbers of samples."""
    if test is None:
        return f"train {found.train}: {len(train):,} {many}; test = {SHARE:g} takes a fifth of them for the final check"
    return f"train {found.train}: {len(train):,} {many}; test {found.test}: {len(test):,}"


def answers(guess: Guess, train: EncodedSplit, column: str = "") -> str:
    """The line with what the labels are, and their column where its name tells nothing."""
    names = in_a_line(listed(list(train.classes), 8))
    shown = column or (f"column {in_a_line(guess.label)}" if guess.label else "")
    of = f" ({shown})" if shown else ""
    match guess.task:
        case "multilabel":
            return f"any of {len(train.classes)} labels a sample: {names}{of}"
        case "regress":
            return f"values: {names}{of}"
        case _:
            return f"{len(train.classes)} classes: {names}{of}"


def doubts(guess: Guess, train: EncodedSplit, test: EncodedSplit | None) -> list[str]:
    """What of the labels would stop a build, or looks like no classes."""
    found = []
    if guess.task == "classify":
        counts = np.bincount(train.labels, minlength=len(train.classes))
        if len(train.classes) < 2:
            found.append(f"all samples are of one class, {in_a_line(train.classes[0])}; a student needs two")
        elif counts.max() == 1:
            found.append(
                "each sample has a class of its own; is it the right column of labels? data.label names another"
            )
        elif not counts.all():
            empty = [train.classes[i] for i in np.flatnonzero(counts == 0)]
            found.append(f"no sample of class {in_a_line(listed(empty))}; a build refuses that")
    if guess.task == "regress" and (largest := float(np.abs(train.labels).max())) > LARGE:
        found.append(f"values reach {largest:g}; scale them to a few units, or the student learns slowly")
    if test is not None and guess.task != "segment":
        try:
            with_classes_of(train.classes, test, reading_task(guess))
        except DataError as error:
            found.append(str(error))
    return found


def some(n: int, most: int) -> list[int]:
    """At most `most` numbers of 0..n-1, evenly spaced."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(n, most)).round()})


def batch_line(n: int) -> tuple[str, ...]:
    """A smaller batch for few samples: at least eight steps an epoch."""
    return () if n >= 1024 else (line("batch_size", str(max(2, 2 ** int(np.log2(max(2, n / 8))))), "few samples"),)
