"""Views: the same picture whatever the order, and the augmentation that the recipe names."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.base.draws import permutation, uniform
from edgekd.data import Views
from edgekd.data.views import Learnt
from edgekd.inputs import Image
from edgekd.inputs.image import INPUT
from edgekd.recipe import Augmentation
from edgekd.tasks.rows import OneRow

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, 40)
EVERYTHING = Augmentation(crop_padding=2, flip=True, jitter=0.2, cutout=3, mixup=0.4)


def views(augment: Augmentation, seed: int = 0) -> Views:
    input = Image((8, 8, 3), (0.2, 0.4, 0.6), (0.5,) * 3, augment)
    return Views(
        input, lambda ids: {INPUT: IMAGES[ids]}, {"": Learnt(LABELS, OneRow())}, np.arange(40), seed, augment.mixup
    )


def test_a_sample_looks_the_same_in_any_batch() -> None:
    together = views(EVERYTHING)(np.arange(40), 3)
    for i in (0, 17, 39):
        alone = views(EVERYTHING)(np.array([i]), 3)
        np.testing.assert_array_equal(alone.inputs[INPUT][0], together.inputs[INPUT][i])
        assert (alone.lam[0], alone.partners[""][0]) == (together.lam[i], together.partners[""][i])


def test_view_and_seed_each_change_the_picture() -> None:
    ids = np.arange(40)
    base = views(EVERYTHING)(ids, 0).inputs[INPUT]
    assert (base != views(EVERYTHING)(ids, 1).inputs[INPUT]).any()
    assert (base != views(EVERYTHING, seed=1)(ids, 0).inputs[INPUT]).any()


def test_without_augmentation_a_view_is_the_image() -> None:
    batch = views(Augmentation())(np.array([5, 2]), 7)
    np.testing.assert_array_equal(batch.inputs[INPUT], IMAGES[[5, 2]])
    assert batch.targets[""].tolist() == LABELS[[5, 2]].tolist() and batch.lam.tolist() == [1.0, 1.0]


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    pictures = views(Augmentation(crop_padding=2))(np.arange(40), 0).inputs[INPUT]
    for image, picture in zip(IMAGES, pictures, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        windows = [padded[y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        assert any((window == picture).all() for window in windows)


def test_about_half_of_the_pictures_are_flipped_and_the_others_untouched() -> None:
    pictures = views(Augmentation(flip=True))(np.arange(40), 0).inputs[INPUT]
    flipped = [(picture == image[:, ::-1]).all() for image, picture in zip(IMAGES, pictures, strict=True)]
    same = [(picture == image).all() for image, picture in zip(IMAGES, pictures, strict=True)]
    assert all(a != b for a, b in zip(flipped, same, strict=True))
    assert 10 <= sum(flipped) <= 30


def test_cut_out_paints_a_square_in_the_mean_colour() -> None:
    pictures = views(Augmentation(cutout=3))(np.arange(40), 0).inputs[INPUT]
    for image, picture in zip(IMAGES, pictures, strict=True):
        rows, columns = np.nonzero((picture != image).any(2))
        assert 0 < len(rows) <= 9
        assert np.ptp(rows) <= 2 and np.ptp(columns) <= 2
        assert (picture[rows, columns] == [51, 102, 153]).all()


def test_mix_up_adds_the_partner_in_the_proportion_that_the_labels_have() -> None:
    batch = views(Augmentation(mixup=0.4))(np.arange(40), 0)
    assert (batch.lam >= 0.5).all() and len(set(batch.lam.tolist())) == 40
    for i in range(40):
        lam = batch.lam[i]
        partners = np.rint(lam * IMAGES[i] + (1 - lam) * IMAGES.astype(np.float64))
        close = (np.abs(partners - batch.inputs[INPUT][i]) <= 1).all((1, 2, 3))
        assert batch.partners[""][i] in LABELS[close]


def test_the_numbers_are_uniform_and_those_of_neighbouring_coordinates_independent() -> None:
    a, b = uniform(np.arange(100_000), 0, 1), uniform(np.arange(100_000), 0, 2)
    counts = np.histogram(a, 20, (0, 1))[0]
    # 19 degrees of freedom: a chi-square above 50 has a probability of 1e-4.
    assert ((counts - 5000) ** 2 / 5000).sum() < 50
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_a_permutation_has_every_number_once_and_depends_on_its_coordinates(n: int) -> None:
    assert sorted(permutation(n, 0, 1)) == list(range(n))
    assert n < 3 or permutation(n, 0, 1).tolist() != permutation(n, 0, 2).tolist()
