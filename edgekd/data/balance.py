"""Balance: the order of an epoch in which each class comes equally often."""

from __future__ import annotations

import numpy as np

from edgekd.base.draws import Ids, permutation

CLASSES, WITHIN, ORDER = (
    0xBA1A,
    0xBA15,
    0xBA0D,
)  # coordinates of their own, so that the draws share no random number with any view


def balanced_order(classes: Ids, seed: int, epoch: int) -> Ids:
    """As many rows as there are samples, each class equally often, to within 1. classes: of each row, `[n]`.

    A class goes through all of its rows, shuffled, before a row comes again, and shuffles them anew each time. A class
    of more rows than its part shows others in the next epoch. The rows depend on `seed` and `epoch` alone.
    """
    present = np.unique(classes)
    part, rest = divmod(len(classes), len(present))
    one_more = set(permutation(len(present), seed, epoch, CLASSES)[:rest].tolist())
    drawn = [
        _rows_of(np.flatnonzero(classes == number), part + (i in one_more), seed, epoch, int(number))
        for i, number in enumerate(present)
    ]
    rows = np.concatenate(drawn)
    return rows[permutation(len(rows), seed, epoch, ORDER)]


def _rows_of(rows: Ids, n: int, seed: int, epoch: int, number: int) -> Ids:
    """`n` of a class's rows, round by round."""
    rounds = -(-n // len(rows))
    return np.concatenate([rows[permutation(len(rows), seed, epoch, WITHIN, number, r)] for r in range(rounds)])[:n]
