"""Colour jitter: the figures by hand, and those of Pillow's enhancers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import ImageEnhance

from edgekd.inputs import Image
from edgekd.inputs.image import INPUT
from edgekd.inputs.jitter import UNIT, brightened, contrasted, jittered, saturated
from edgekd.recipe import Augmentation

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 8, 6, 3), dtype=np.uint8)
IDS = np.arange(40)


def test_a_pixel_by_hand() -> None:
    """Factor 1.5: 100 is 150, 200 is cut at 255. The mean of 100 and 200 is 150: 75 and 225. The luma of (0, 0, 200) is
    23, 200 times 0.114: -11 is cut at 0 (23 - 1.5 * 23), and 23 + 1.5 * 177 at 255."""
    half_more = np.array([3 * UNIT // 2])
    grey = np.array([100, 200], np.uint8).reshape(1, 1, 2, 1)
    assert brightened(grey, half_more).ravel().tolist() == [150, 255]
    assert contrasted(grey, half_more).ravel().tolist() == [75, 225]
    blue = np.array([0, 0, 200], np.uint8).reshape(1, 1, 1, 3)
    assert saturated(blue, half_more).ravel().tolist() == [0, 0, 255]
    assert saturated(blue, np.array([UNIT // 2])).ravel().tolist() == [12, 12, 112]  # halfway to the grey 23
    assert saturated(blue, np.array([0])).ravel().tolist() == [23, 23, 23]


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.75, 1.0, 1.25, 2.0])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (brightened, ImageEnhance.Brightness),
        (contrasted, ImageEnhance.Contrast),
        (saturated, ImageEnhance.Color),
    ],
)
def test_each_step_is_pillows_to_one_level(ours: object, theirs: object, factor: float) -> None:
    """Pillow computes in float32 and cuts where this rounds."""
    found = ours(IMAGES, np.full(40, round(factor * UNIT)))  # type: ignore[operator]
    for image, mine in zip(IMAGES, found, strict=True):
        expected = np.asarray(theirs(Picture.fromarray(image)).enhance(factor))  # type: ignore[operator]
        assert np.abs(mine.astype(int) - expected).max() <= 1


def test_factor_one_changes_nothing() -> None:
    one = np.full(40, UNIT)
    for step in (brightened, contrasted, saturated):
        np.testing.assert_array_equal(step(IMAGES, one), IMAGES)


def test_brightness_differs_by_at_most_the_share_and_by_nearly_all_of_it() -> None:
    """Of a plain grey picture only the brightness changes: its contrast and saturation are 0."""
    plain = np.full((400, 2, 2, 3), 100, np.uint8)
    levels = jittered(plain, np.arange(400), 0.2, 0, 0)[:, 0, 0, 0].astype(int)
    assert levels.min() in (80, 81) and levels.max() in (119, 120) and abs(levels.mean() - 100) < 2


def test_a_picture_has_the_same_jitter_in_any_batch_and_another_in_each_view() -> None:
    whole = jittered(IMAGES, IDS, 0.3, 2, 0)
    np.testing.assert_array_equal(jittered(IMAGES[[7]], IDS[[7]], 0.3, 2, 0)[0], whole[7])
    for view, seed in ((3, 0), (2, 1)):
        assert (jittered(IMAGES, IDS, 0.3, view, seed) != whole).any((1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_without_three_channels_have_no_saturation(channels: int) -> None:
    """A picture whose channels are equal stays one: only a step by channel would part them."""
    grey = np.repeat(IMAGES[..., :1], channels, axis=3)
    found = jittered(grey, IDS, 0.5, 0, 0)
    assert found.shape == grey.shape and (found == found[..., :1]).all() and (found != grey).any()


def test_the_border_of_a_crop_stays_black_and_masks_do_not_change() -> None:
    input = Image((8, 6, 3), augment=Augmentation(jitter=0.5, crop_padding=4))
    white = np.full((40, 8, 6, 3), 255, np.uint8)
    found = input.view({INPUT: white}, IDS, 0, 0)[INPUT]
    masks = input.moved(np.ones((40, 8, 6), np.int64), IDS, 0, 0, 0)
    np.testing.assert_array_equal((found == 0).all(3), masks == 0)
    assert masks.max() == 1 and len(np.unique(found)) > 10


def test_a_batch_that_is_changed_in_pieces_is_the_same() -> None:
    large = RNG.integers(0, 256, (3, 300, 310, 3), dtype=np.uint8)  # each larger than a piece
    found = jittered(large, np.arange(3), 0.3, 0, 0)
    for i in range(3):
        np.testing.assert_array_equal(jittered(large[[i]], np.array([i]), 0.3, 0, 0)[0], found[i])
    assert (found != large).any((1, 2, 3)).all()
    assert jittered(large[:0], np.arange(0), 0.3, 0, 0).shape == (0, 300, 310, 3)
