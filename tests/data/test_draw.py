"""A draw of some samples: each class in its share, whatever the order of the file."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.data import Samples, Split
from edgekd.data.draw import stratified
from edgekd.inputs import Image
from edgekd.steps.export import CHECKED, checked_on
from edgekd.tasks.classify import Classify
from tests.builders.training import DATA

RNG = np.random.default_rng(0)
BY_CLASS = np.repeat(np.arange(4), [400, 300, 200, 100])


@pytest.mark.parametrize("n", [1, 7, 20, 100, 999])
def test_each_class_has_its_share_within_one_of_a_split_sorted_by_class(n: int) -> None:
    ids = stratified(BY_CLASS, n, seed=1)
    assert len(set(ids.tolist())) == n and (np.diff(ids) > 0).all()
    drawn = np.bincount(BY_CLASS[ids], minlength=4)
    assert (np.abs(drawn - n * np.array([0.4, 0.3, 0.2, 0.1])) < 1.0 + 1e-9).all()


def test_a_smaller_draw_is_part_of_a_larger_one_and_a_seed_of_another_makes_another() -> None:
    small, large = stratified(BY_CLASS, 30, 5), stratified(BY_CLASS, 200, 5)
    assert set(small) < set(large)
    assert set(small) != set(stratified(BY_CLASS, 30, 6))
    np.testing.assert_array_equal(small, stratified(BY_CLASS, 30, 5))


def test_all_are_drawn_where_there_are_no_more_and_a_class_may_be_empty() -> None:
    labels = np.array([0, 2, 2, 5])
    np.testing.assert_array_equal(stratified(labels, 9, 0), np.arange(4))
    assert len(stratified(labels, 3, 0)) == 3


def test_every_sample_is_drawn_as_often_as_any_other() -> None:
    """Over 2,000 seeds: 3 of 12, so each about 500 times; no first sample and no large class is preferred."""
    labels = np.repeat([0, 1, 2], [6, 4, 2])
    times = np.bincount(np.concatenate([stratified(labels, 3, seed) for seed in range(2000)]), minlength=12)
    assert (np.abs(times - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)).all()


def test_an_export_is_compared_on_hold_out_samples_of_every_class() -> None:
    """Of a training split that is sorted by class; the first 64 of the hold-out split were all of the first class."""
    labels = np.repeat(np.arange(10), 500)
    split, held = Split(Image((2, 2, 1)), lambda ids: {}, labels, Classify(tuple("0123456789"))), np.arange(0, 5000, 5)
    ids = checked_on(Samples(split, np.setdiff1d(np.arange(5000), held), held, (), DATA))
    assert len(ids) == CHECKED and set(ids) <= set(held)
    assert np.bincount(labels[ids]).min() >= 6
