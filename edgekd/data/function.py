"""from_function: the samples and labels that a user's function returns for a split."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.base.names import class_problem
from edgekd.base.references import load_function
from edgekd.data.classes import of_numbers, of_texts
from edgekd.data.encoded import EncodedSplit, Wanted
from edgekd.data.labels import of_function
from edgekd.errors import DataError
from edgekd.inputs import Files
from edgekd.recipe import ClassifyTask


def _told(result: object) -> str:
    """The kind of value that a function returned, in words."""
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__


def from_function(reference: str, kind: Files, wanted: Wanted) -> EncodedSplit:
    """The samples that a function returns for a split. Raises DataError if it fails, or returns something else."""
    split, label, task, function = wanted.split, wanted.label, wanted.task, load_function(reference)
    where = f"data.{split} = '{reference}'"
    asked = (split,) if label is None else (split, label)
    try:
        result: Any = function(*asked)
    except (Exception, SystemExit) as error:  # a user's function may raise anything, or end the program
        raise DataError(
            f"{where}: the function failed when called with {', '.join(map(repr, asked))}: {type(error).__name__}: {error}"
        ) from error
    try:
        given, labels, classes = result
        samples = kind.given(given, where)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: the function must return ({kind.many}, labels, class names); it returned {_told(result)}"
        ) from error
    names = _named(classes, where)
    if not isinstance(task, ClassifyTask):
        targets = of_function(task, labels, names, len(samples), where)
        return EncodedSplit(targets.values, names, lambda i: samples[i], lambda i: f"{reference} sample {i}")

    def name_of(i: int) -> str:
        return f"{reference} sample {i}"

    labels = np.asarray(labels)
    if labels.shape != (len(samples),) or labels.dtype.kind not in "iuU":
        raise DataError(
            f"{where}: labels must be {len(samples)} whole numbers or texts; they are {labels.dtype} {list(labels.shape)}"
        )
    if labels.dtype.kind == "U":  # names of classes, whose numbers are those of the names that the function gives
        labels = of_texts(labels.tolist(), names, name_of, where, "the class names that the function gives").values
    found = of_numbers(labels.astype(np.int64), names, wanted.classes, name_of, where)
    return EncodedSplit(found.values, found.names, lambda i: samples[i], name_of)


def _named(classes: Any, where: str) -> tuple[str, ...]:
    """The class names from a user's function: texts or numbers."""
    try:
        given = None if isinstance(classes, str | bytes) else list(classes)
    except TypeError:
        given = None
    if given is None:
        raise DataError(
            f"{where}: the function must return class names as a list of texts; it returned {type(classes).__name__}"
        )
    names = [
        str(name) if isinstance(name, int | np.integer | str) and not isinstance(name, bool) else name for name in given
    ]
    if problem := class_problem(names):
        raise DataError(f"{where}: {problem}")
    return tuple(names)
