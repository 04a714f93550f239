"""Classes: labels as numbers of classes, whether a source holds numbers or texts, in the order that the recipe names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgekd.base.names import class_problem, in_a_line
from edgekd.data.encoded import listed
from edgekd.data.labels import Targets
from edgekd.errors import DataError

MOST_CLASSES = 100_000  # limit if the number of classes is only known from the largest label
Numbers = npt.NDArray[np.int64]


def of_numbers(
    labels: Numbers, own: tuple[str, ...], asked: tuple[str, ...] | None, name_of: Callable[[int], str], where: str
) -> Targets:
    """Labels `[n]` that number classes from 0. own: the names that the source has for them, or none.

    With `asked` (data.classes) they are renumbered by their names. Without any names a class is called as its number.
    Raises DataError for a name that `asked` has not. A label beyond the names stays as it is: it is reported later.
    """
    if own and asked and own != asked:
        if unknown := [name for name in own if name not in asked]:
            raise DataError(
                f"{where} has the class {in_a_line(unknown[0])}, which is none of data.classes{meant(unknown[0], asked)}"
            )
        return Targets(renumbered(labels, own, asked), asked)
    if own or asked:
        return Targets(labels, own or asked or ())
    largest = int(np.argmax(labels)) if len(labels) else 0
    if len(labels) and labels[largest] >= MOST_CLASSES:
        raise DataError(
            f"{name_of(largest)} has label {labels[largest]}; labels without class names are numbers from 0, one a class, and at "
            f"most {MOST_CLASSES:,} classes are possible"
        )
    return Targets(labels, tuple(str(i) for i in range(int(labels.max(initial=-1)) + 1)))


def of_texts(
    labels: Sequence[str],
    asked: tuple[str, ...] | None,
    name_of: Callable[[int], str],
    where: str,
    source: str = "data.classes",
) -> Targets:
    """Labels that are texts: names of classes, in the order of `asked` or sorted, numbers by their value.

    Where `asked` is given and all labels are numbers that it has not, they are places in it, from 0. Raises DataError with
    the row and the nearest name for a label that is none of `asked`. source: what names `asked`.
    """
    found = set(labels)
    numeric = all(text.isdecimal() and text.isascii() for text in found)
    if asked is None:
        classes = tuple(sorted(found, key=(lambda text: (int(text), text)) if numeric else str))
        if problem := class_problem(classes):
            raise DataError(f"{where}: {problem}")
    else:
        classes = asked
        if numeric and not found & set(classes):
            return Targets(np.array([int(text[:18]) for text in labels], np.int64), classes)
    number = {name: i for i, name in enumerate(classes)}
    for row, text in enumerate(labels):
        if text not in number:
            raise DataError(
                f"{name_of(row)} has label {in_a_line(text)[:80]}, which is none of {source}{meant(text, classes)}"
            )
    return Targets(np.array([number[text] for text in labels], np.int64), classes)


def renumbered(labels: Numbers, own: tuple[str, ...], classes: tuple[str, ...]) -> Numbers:
    """Labels of a source's own classes, renumbered to the order of the common class names.

    Labels that are not classes stay as they are: they are reported later.
    """
    if own == classes:
        return labels
    if len(set(classes)) < len(classes):
        raise DataError(
            f"the class names {', '.join(classes[:5])} ... hold one twice, and stand in another order in a further file"
        )
    place = {name: i for i, name in enumerate(classes)}
    order = np.array([place[name] for name in own], np.int64)
    known = (labels >= 0) & (labels < len(order))
    return np.where(known, order[np.where(known, labels, 0)], labels)


def meant(name: str, classes: Sequence[str]) -> str:
    """The end of a message: the classes that there are, and the one that is nearest to a name."""
    close = difflib.get_close_matches(name, classes, n=1, cutoff=0.6)
    told = f" ({in_a_line(listed(list(classes)))})"
    return f"{told}. Did you mean {in_a_line(close[0])}?" if close else f"{told}; mend the label, or name it there"
