"""Reading data: every kind of source, the two kinds of store, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekd import inputs
from edgekd.cache.stage import Cache
from edgekd.check.doubts import doubts
from edgekd.data.batches import epoch_of
from edgekd.data.views import Learnt, Views
from edgekd.errors import DataError, ModelError
from edgekd.inputs.image import INPUT
from edgekd.recipe import ClassifyTask, Data
from edgekd.steps.problem import decoded
from edgekd.tasks.rows import OneRow
from tests.builders.arguments import argument
from tests.builders.pictures import LABELS, parquet, png

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return parquet(tmp_path / "train.parquet", [png(image) for image in PIXELS])


def opened(folder: Path, **settings: Any) -> Any:
    """The training split, `test` beside it."""
    with Cache(folder / "cache") as run:
        problem = decoded(run, Data(**settings), ClassifyTask())
    return SimpleNamespace(
        **vars(problem.open()), input=problem.open().input, classes=problem.open().classes, test=problem.open_test()
    )


def test_a_parquet_file_gives_its_pixels_labels_and_class_names(tmp_path: Path, file: str) -> None:
    samples = opened(tmp_path, train=file, test=file)
    np.testing.assert_array_equal(samples.train.get(np.arange(12))[INPUT], PIXELS)
    assert samples.train.labels.tolist() == LABELS
    assert samples.classes == ("cat", "dog", "owl") and samples.input.shape == (6, 5, 3)


def test_several_parquet_files_are_one_split(tmp_path: Path, file: str) -> None:
    for i in range(2):
        parquet(
            tmp_path / f"part-{i}.parquet",
            [png(image) for image in PIXELS[6 * i : 6 * i + 6]],
            LABELS[6 * i : 6 * i + 6],
        )
    samples = opened(tmp_path, train=str(tmp_path / "part-*.parquet"), test=file)
    np.testing.assert_array_equal(samples.train.get(np.arange(12))[INPUT], PIXELS)


def test_of_an_image_of_16_bits_the_upper_8_are_read_and_one_of_floats_is_refused(tmp_path: Path, file: str) -> None:
    images = [png(image) for image in PIXELS]
    images[2] = png(np.full((6, 5), 40_000, np.uint16))
    samples = opened(tmp_path, train=parquet(tmp_path / "a.parquet", images), test=file)
    assert (samples.train.get(np.array([2]))[INPUT] == 40_000 // 256).all()
    floats = io.BytesIO()
    Image.fromarray(np.ones((6, 5), np.float32)).save(floats, "TIFF")
    images[2] = floats.getvalue()
    text = refused(tmp_path, train=parquet(tmp_path / "b.parquet", images), test=file)
    assert "row 2" in text and "8 bits" in text


def test_the_hold_out_split_is_a_fixed_share_of_train_and_apart_from_the_rest(tmp_path: Path, file: str) -> None:
    first, second = (opened(tmp_path, train=file, test=file, holdout=0.25) for _ in range(2))
    assert len(first.holdout_ids) == 3
    assert sorted([*first.holdout_ids, *first.train_ids]) == list(range(12))
    assert first.holdout_ids.tolist() == second.holdout_ids.tolist()


def test_decoding_on_the_fly_gives_the_same_samples_as_the_decoded_store(tmp_path: Path, file: str) -> None:
    decoded = opened(tmp_path, train=file, test=file)
    on_the_fly = opened(tmp_path, train=file, test=file, store_gb=1e-9)
    ids = np.array([7, 0, 11])
    np.testing.assert_array_equal(decoded.train.get(ids)[INPUT], on_the_fly.train.get(ids)[INPUT])
    assert decoded.holdout_ids.tolist() == on_the_fly.holdout_ids.tolist()


def test_an_image_folder_has_a_class_for_each_folder(tmp_path: Path) -> None:
    for i, (image, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        place = tmp_path / "train" / "abc"[label] / f"{i:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(image))
    samples = opened(tmp_path, train=str(tmp_path / "train"), test=str(tmp_path / "train"))
    assert samples.classes == ("a", "b", "c")
    np.testing.assert_array_equal(samples.train.get(np.arange(4))[INPUT], PIXELS[[0, 3, 6, 9]])


def test_images_are_resized_where_the_recipe_says_so(tmp_path: Path, file: str) -> None:
    samples = opened(tmp_path, train=file, test=file, size=(3, 4))
    assert samples.train.get(np.arange(2))[INPUT].shape == (2, 3, 4, 3)


def test_a_function_gives_arrays(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def load(split):\n"
        "    n = 9 if split == 'train' else 3\n"
        "    return np.full((n, 4, 4, 1), n, np.uint8), np.arange(n) % 3, ('x', 'y', 'z')\n"
    )
    reference = f"python:{tmp_path}/mine.py:load"
    samples = opened(tmp_path, train=reference, test=reference)
    assert (len(samples.train), len(samples.test), samples.input.shape) == (9, 3, (4, 4, 1))


def refused(tmp_path: Path, **settings: Any) -> str:
    with pytest.raises((DataError, ModelError)) as caught:
        opened(tmp_path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_function_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def load():\n    pass\n")
    assert "TypeError" in refused(tmp_path, train=f"python:{tmp_path}/mine.py:load", test="x")


def test_a_missing_file_is_named_with_what_is_possible(tmp_path: Path, file: str) -> None:
    text = refused(tmp_path, train=file, test=str(tmp_path / "no.parquet"))
    assert "no.parquet" in text and "data.test" in text and "parquet" in text


def test_a_parquet_without_the_columns_is_told_with_its_columns(tmp_path: Path) -> None:
    wrong = parquet(tmp_path / "a.parquet", [png(image) for image in PIXELS], column="picture")
    assert "picture, label" in refused(tmp_path, train=wrong, test=wrong)


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("hello")
    assert "not a parquet file" in refused(tmp_path, train=str(tmp_path / "a.parquet"), test="b")


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    images = [png(image) for image in PIXELS]
    images[4] = images[4][:40]
    broken = parquet(tmp_path / "a.parquet", images)
    assert "row 4 does not decode" in refused(tmp_path, train=broken, test=broken)


def test_with_on_error_skip_it_is_left_out_and_counted(tmp_path: Path, file: str) -> None:
    images = [png(image) for image in PIXELS]
    images[4] = b"not an image"
    broken = parquet(tmp_path / "a.parquet", images)
    samples = opened(tmp_path, train=broken, test=file, on_error="skip")
    assert len(samples.train) == 11 and len(samples.skipped) == 1 and "row 4" in samples.skipped[0]
    np.testing.assert_array_equal(samples.train.get(np.array([4]))[INPUT], PIXELS[[5]])


def folder(place: Path, images: dict[str, list[Any]]) -> str:
    for name, pixels in images.items():
        (place / name).mkdir(parents=True)
        for i, image in enumerate(pixels):
            (place / name / f"{i:02}.png").write_bytes(png(image))
    return str(place)


def test_a_class_without_test_samples_is_allowed_and_its_labels_keep_their_numbers(tmp_path: Path, file: str) -> None:
    """Of an image folder the class's folder is missing, of parquet its samples are."""
    train = folder(tmp_path / "train", {"a": [PIXELS[0]], "b": [PIXELS[1]], "c": [PIXELS[2]]})
    test = folder(tmp_path / "test", {"a": [PIXELS[3]], "c": [PIXELS[4], PIXELS[5]]})
    samples = opened(tmp_path, train=train, test=test)
    assert samples.classes == ("a", "b", "c") and samples.test.labels.tolist() == [0, 2, 2]
    assert list(doubts(samples.test)) == ["no test sample of class b: no accuracy speaks of it"]
    without_owls = parquet(tmp_path / "a.parquet", [png(image) for image in PIXELS], [0, 1] * 6)
    samples = opened(tmp_path, train=file, test=without_owls)
    assert any("test sample of class owl" in doubt for doubt in doubts(samples.test))


def test_test_classes_in_another_order_are_numbered_by_name(tmp_path: Path, file: str) -> None:
    images = [png(255 - image) for image in PIXELS]
    turned = parquet(tmp_path / "b.parquet", images, names=("owl", "cat", "dog"))
    samples = opened(tmp_path, train=file, test=turned)
    assert samples.classes == ("cat", "dog", "owl") and samples.test.labels.tolist() == [2, 0, 1] * 4


def test_a_class_that_train_has_not_is_told_by_the_difference(tmp_path: Path) -> None:
    train = folder(tmp_path / "train", {name: [PIXELS[0]] for name in ("ant", "bee", "cat")})
    test = folder(tmp_path / "test", {name: [PIXELS[1]] for name in ("ant", "cow", "dog")})
    text = refused(tmp_path, train=train, test=test)
    assert "data.test" in text and "cow, dog" in text and "lacks bee, cat" in text


def test_classes_of_one_name_are_refused_where_they_would_be_told_apart_by_it(tmp_path: Path) -> None:
    images = [png(image) for image in PIXELS]
    train = parquet(tmp_path / "a.parquet", images, names=("cat", "dog", "cat"))
    text = refused(tmp_path, train=train, test=parquet(tmp_path / "b.parquet", images, names=("dog", "cat", "cat")))
    assert "called cat" in text


def test_test_pictures_that_are_in_train_too_are_found_by_their_pixels(tmp_path: Path, file: str) -> None:
    """In another file format and order; the score is told with them and without."""
    again = io.BytesIO()
    Image.fromarray(PIXELS[7]).save(again, "BMP")
    images = [png(255 - PIXELS[0]), again.getvalue(), png(255 - PIXELS[2]), png(PIXELS[2])]
    for settings in ({}, {"store_gb": 1e-9}):
        test = parquet(tmp_path / f"b{len(settings)}.parquet", images, [0, 1, 2, 0])
        samples = opened(tmp_path, train=file, test=test, **settings)
        assert samples.test.repeated.tolist() == [False, True, False, True]
    assert list(doubts(samples.test)) == ["2 of 4 test pictures are in train too (the same pixels)"]
    logits = np.eye(3, dtype=np.float32)[[0, 1, 0, 0]]
    told = "int8 has 75.00 % top-1 on all, and 50.00 % on the 2 others"
    assert next(doubts(samples.test, "int8", logits)).endswith(told)
    assert "all 12 test pictures" in next(doubts(opened(tmp_path, train=file, test=file).test))


def test_one_channel_is_kept_where_the_recipe_says_so(tmp_path: Path, file: str) -> None:
    grey = parquet(tmp_path / "grey.parquet", [png(image[:, :, 0]) for image in PIXELS])
    for settings in ({}, {"store_gb": 1e-9}):
        samples = opened(tmp_path, train=grey, test=file, channels=1, **settings)
        assert samples.input.shape == (6, 5, 1)
        np.testing.assert_array_equal(samples.train.get(np.arange(12))[INPUT], PIXELS[:, :, :, :1])
        assert samples.test.get(np.arange(2))[INPUT].shape == (2, 6, 5, 1)
    assert opened(tmp_path, train=grey, test=file).input.shape == (6, 5, 3)


def test_a_label_beyond_the_classes_is_named_with_its_row(tmp_path: Path) -> None:
    beyond = parquet(tmp_path / "a.parquet", [png(image) for image in PIXELS], [0, 1, 2, 7] * 3)
    text = refused(tmp_path, train=beyond, test=beyond)
    assert "row 3 has label 7" in text and "3 classes" in text


def test_images_of_different_sizes_ask_for_a_size(tmp_path: Path) -> None:
    images = [png(image) for image in PIXELS]
    images[5] = png(PIXELS[5][:4])
    mixed = parquet(tmp_path / "a.parquet", images)
    text = refused(tmp_path, train=mixed, test=mixed)
    assert "row 5 is 5x4" in text and "data.size" in text


def test_different_classes_in_train_and_test_are_told(tmp_path: Path, file: str) -> None:
    other = parquet(tmp_path / "b.parquet", [png(image) for image in PIXELS], names=())
    assert "cat, dog, owl" in refused(tmp_path, train=file, test=other)


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    views = Views(
        inputs.Image((4, 4, 1)),
        lambda ids: {INPUT: PIXELS[ids]},
        {"": Learnt(np.array(LABELS), OneRow())},
        np.arange(12),
        0,
    )
    epochs = [list(epoch_of(views, epoch, batch_size=4, number_of_views=2, seed=0)) for epoch in (0, 1, 2)]
    orders = [np.concatenate([step.rows for step in steps]).tolist() for steps in epochs]
    assert all(sorted(order) == list(range(12)) for order in orders) and orders[0] != orders[1]
    assert [steps[0].view for steps in epochs] == [0, 1, 0]


def test_two_processes_share_each_batch() -> None:
    views = Views(
        inputs.Image((4, 4, 1)),
        lambda ids: {INPUT: PIXELS[ids]},
        {"": Learnt(np.array(LABELS), OneRow())},
        np.arange(12),
        0,
    )
    whole = [step.rows for step in epoch_of(views, 0, batch_size=4, number_of_views=1, seed=3)]
    parts = [
        [step.rows for step in epoch_of(views, 0, batch_size=4, number_of_views=1, seed=3, rank=rank, world=2)]
        for rank in (0, 1)
    ]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted([*first, *second]) == sorted(batch) and len(first) == len(second) == 2


def test_pixels_become_normalised_channels_first() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (PIXELS / 255 - mean) / std
    np.testing.assert_allclose(argument(PIXELS, mean, std).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
