"""Balanced sampling: each class comes equally often, whatever its share of the samples."""

from __future__ import annotations

import numpy as np

from edgekd.data.balance import balanced_order
from edgekd.data.batches import epoch_of
from tests.builders.training import LABELS, samples

CLASSES = np.repeat([0, 2, 5], [60, 30, 11])  # numbers 1, 3 and 4 have no samples


def test_an_epoch_has_as_many_rows_and_each_class_equally_often() -> None:
    counts = np.bincount(CLASSES[balanced_order(CLASSES, 0, 0)])
    assert counts.sum() == 101 and sorted(counts[[0, 2, 5]]) == [33, 34, 34]


def test_the_class_that_comes_less_often_is_another_in_other_epochs() -> None:
    fewer = {int(np.bincount(CLASSES[balanced_order(CLASSES, 0, epoch)])[[0, 2, 5]].argmin()) for epoch in range(20)}
    assert fewer == {0, 1, 2}


def test_a_row_comes_again_only_after_all_others_of_its_class() -> None:
    times = np.bincount(balanced_order(CLASSES, 0, 0), minlength=101)
    for number in (0, 2, 5):
        own = times[number == CLASSES]
        assert own.max() - own.min() <= 1
    assert times[CLASSES == 0].max() == 1 and times[CLASSES == 5].min() == 3  # 60 rows for 33 places, 11 for 33


def test_a_large_class_shows_other_rows_in_the_next_epoch() -> None:
    seen = [set(balanced_order(CLASSES, 0, epoch)) & set(range(60)) for epoch in range(12)]
    assert seen[0] != seen[1] and set.union(*seen) == set(range(60))


def test_the_order_depends_on_seed_and_epoch_alone_and_classes_are_shuffled_together() -> None:
    one, again = balanced_order(CLASSES, 3, 4), balanced_order(CLASSES, 3, 4)
    assert (one == again).all()
    assert (one != balanced_order(CLASSES, 4, 4)).any() and (one != balanced_order(CLASSES, 3, 5)).any()
    assert len(set(CLASSES[one[:20]])) == 3


def test_steps_and_processes_share_a_balanced_epoch_as_any_other() -> None:
    views = samples().views
    given = {"batch_size": 16, "number_of_views": 2, "seed": 0, "balanced": True}
    whole = [step.rows for step in epoch_of(views, 1, **given)]
    assert len(whole) == 5 and (np.concatenate(whole) == balanced_order(LABELS[:80], 0, 1)).all()
    parts = [[step.rows for step in epoch_of(views, 1, rank=rank, world=2, **given)] for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert (first == batch[::2]).all() and (second == batch[1::2]).all()
