"""classes_found, labels_found, confusion_of: the shipped model's answers to the test split, class by class, beside the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.figures import ClassScore, Confused, Confusion, Share
from edgekd.figures.intervals import wilson_interval

Classes = NDArray[np.int64]  # [samples]: the number of a class
MATRIX = 20  # classes; a larger matrix cannot be read
PAIRS = 20


def classes_found(
    names: Sequence[str], labels: Classes, answers: Classes, taught: Classes | None = None, known: int = 0
) -> Iterator[ClassScore]:
    """The share of right answers to each class that has samples, with Wilson's 95 % interval.

    labels, answers, taught: classes `[samples]`, the last by the teacher, who knows the first `known` classes.
    """
    n = np.bincount(labels, minlength=len(names))
    right = np.bincount(labels[labels == answers], minlength=len(names))
    by_teacher = None if taught is None else np.bincount(labels[labels == taught], minlength=len(names))
    for i in map(int, np.flatnonzero(n)):
        teacher = None if by_teacher is None or i >= known else share(int(by_teacher[i]), int(n[i]))
        yield ClassScore(name=names[i], n=int(n[i]), shipped=share(int(right[i]), int(n[i])), teacher=teacher)


def labels_found(names: Sequence[str], labels: NDArray[np.float32]) -> Iterator[ClassScore]:
    """The number of test samples that have each label, for labels that some sample has. labels: `[samples, labels]`."""
    for name, n in zip(names, (labels > 0).sum(0).tolist(), strict=True):
        if n:
            yield ClassScore(name=name, n=n)


def share(right: int, n: int) -> Share:
    """The share `right / n` in percent."""
    low, high = wilson_interval(right, n)
    return Share(value=round(100 * right / n, 2), low=round(low, 2), high=round(high, 2))


def confusion_of(
    names: Sequence[str], labels: Classes, answers: Classes, taught: Classes | None = None, known: int = 0
) -> Confusion:
    """The counts of answers by class, for up to `MATRIX` classes, and the `PAIRS` most frequent confusions.

    Arguments as those of `classes_found`. Only wrong answers are counted by pair, so 20,000 classes need no large matrix.
    """
    wrong = answers != labels
    size, n = len(names), np.bincount(labels, minlength=len(names))
    codes, counts = np.unique(labels[wrong] * size + answers[wrong], return_counts=True)
    pairs = []
    for at in np.argsort(-counts, kind="stable")[:PAIRS]:
        label, answer = divmod(int(codes[at]), size)
        teacher = None
        if taught is not None and max(label, answer) < known:
            teacher = int(((labels == label) & (taught == answer)).sum())
        pairs.append(
            Confused(label=names[label], answer=names[answer], n=int(counts[at]), of=int(n[label]), teacher=teacher)
        )
    matrix = np.bincount(labels * size + answers, minlength=size * size).reshape(size, size) if size <= MATRIX else ()
    return Confusion(
        n=len(labels),
        wrong=int(wrong.sum()),
        counts=tuple(tuple(map(int, row)) for row in matrix),
        pairs=tuple(pairs),
    )
