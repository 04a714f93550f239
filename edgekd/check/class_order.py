"""mistaken_order: recognises a teacher that numbers the classes differently from the data, by its answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from edgekd.figures.intervals import wilson_interval

Numbers = npt.NDArray[np.int64]
STAY = 0.01  # a share of a class's samples: without evidence for another order a class keeps its number


@dataclass(frozen=True)
class Mistaken:
    """A mistaken order: `classes[i]` is the data's class for output i.

    as_numbered, by_order: top-1 in percent of all samples, with the data's order and with this order.
    """

    classes: tuple[int, ...]
    as_numbered: float
    by_order: float
    n: int


def mistaken_order(predicted: Numbers, labels: Numbers, classes: int) -> Mistaken | None:
    """The order of classes that explains the predictions beyond doubt; else None.

    predicted, labels: `[samples]`, of 0..classes-1. The order is the linear assignment on the confusion matrix, with equal
    weight for each class. It is judged on the samples of the classes that it moves; each half is judged by the order that
    the other half gives. Its accuracy must be clear: the lower end of its interval (95 %) must be at least twice the upper
    end for the data's own order.
    """
    order = _order(predicted, labels, classes)
    moved = np.isin(labels, np.flatnonzero(order != np.arange(classes)))
    if not moved.any():
        return None
    half = _rank_within_class(labels) % 2
    right = np.zeros(len(labels), bool)
    for part in (0, 1):
        found = _order(predicted[half != part], labels[half != part], classes)
        right[half == part] = predicted[half == part] == found[labels[half == part]]
    n = int(moved.sum())
    least, _ = wilson_interval(int(right[moved].sum()), n)
    _, most = wilson_interval(int((predicted == labels)[moved].sum()), n)
    if least < 2 * most:
        return None
    return Mistaken(
        tuple(np.argsort(order).tolist()),
        float(100 * (predicted == labels).mean()),
        float(100 * (predicted == order[labels]).mean()),
        len(labels),
    )


def _order(predicted: Numbers, labels: Numbers, classes: int) -> Numbers:
    """The output that stands for each class."""
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (labels, predicted), 1.0)
    confusion /= np.maximum(confusion.sum(1, keepdims=True), 1)
    return np.asarray(linear_sum_assignment(confusion + STAY * np.eye(classes), maximize=True)[1], np.int64)


def _rank_within_class(labels: Numbers) -> Numbers:
    """The rank of each sample within its class: 0, 1, 2 ..., in the order of samples."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks
