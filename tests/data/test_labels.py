"""Labels, values and masks as data sets hold them: what each becomes, and what is refused with its row."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekd.data.labels import Targets, decode_mask, mask_files, of_function, resized_mask, size_of, targets_of
from edgekd.errors import DataError
from edgekd.recipe import MultilabelTask, RegressTask, SegmentTask

LABELS, VALUES = MultilabelTask(kind="multilabel"), RegressTask(kind="regress")
MASKS = SegmentTask(kind="segment", classes=("ground", "disc"))


def labels(rows: list[Any], *classes: str) -> Targets:
    return targets_of(MultilabelTask(kind="multilabel", classes=classes or None), {"labels": rows}, "train")


@pytest.mark.parametrize(
    ("rows", "names", "expected"),
    [
        ([["b", "a"], [], ["a"]], ("a", "b"), [[1, 1], [0, 0], [1, 0]]),
        (["b; a", "", "a"], ("a", "b"), [[1, 1], [0, 0], [1, 0]]),
        ([[2, 0], [], [0]], ("0", "1", "2"), [[1, 0, 1], [0, 0, 0], [1, 0, 0]]),
        ([np.array(["b"]), ["a", "a"]], ("a", "b"), [[0, 1], [1, 0]]),
    ],
)
def test_lists_of_labels(rows: list[Any], names: tuple[str, ...], expected: list[list[int]]) -> None:
    found = labels(rows)
    assert found.names == names
    np.testing.assert_array_equal(found.values, expected)


def test_the_recipes_classes_give_the_order_and_names_of_numbers() -> None:
    np.testing.assert_array_equal(labels([["a"], ["b"]], "b", "a", "c").values, [[0, 1, 0], [1, 0, 0]])
    found = labels([[1], []], "off", "on")
    assert found.names == ("off", "on")
    np.testing.assert_array_equal(found.values, [[0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [
        ([["a"], ["z"]], ("a", "b"), "train row 1: label 'z' is none of the 2 that are known"),
        ([[0], [3]], ("a", "b"), "train row 1: label 3 is none of the 2"),
        ([[0], [-1]], (), "train row 1: label -1 is none of the 1"),
        ([["a"], None], (), "train row 1: column labels holds nothing; it must be a list"),
        ([["a"], 3], (), "train row 1: column labels holds 3; it must be a list"),
        ([["a"], [0.5]], (), "it must be a list of labels"),
        ([["a"], [["b"]]], (), "it must be a list of labels"),
        ([["a"], [1]], (), "lists of texts, or of whole numbers"),
        ([[True], [False]], (), "lists of texts, or of whole numbers"),
        ([[], []], (), "no sample has a label"),
        ([["a\nb"]], (), "train"),
    ],
)
def test_what_is_no_list_of_known_labels_is_refused_with_its_row(
    rows: list[Any], classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        labels(rows, *classes)


def test_columns_of_flags() -> None:
    found = targets_of(LABELS, {"cat": [0, 1, True], "dog": ["1", "0", "false"]}, "train")
    assert found.names == ("cat", "dog")
    np.testing.assert_array_equal(found.values, [[0, 1], [1, 0], [1, 0]])


@pytest.mark.parametrize("value", [2, -1, 0.5, "yes", None, float("nan")])
def test_a_flag_of_another_kind_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match=r"train row 1: column dog holds .*; a label's column holds 0 or 1"):
        targets_of(LABELS, {"cat": [0, 1], "dog": [1, value]}, "train")


def test_as_many_names_as_columns_of_flags() -> None:
    with pytest.raises(DataError, match=r"task\.classes has 3 names, and there are 2 columns"):
        named = MultilabelTask(kind="multilabel", classes=("a", "b", "c"))
        targets_of(named, {"cat": [0, 1], "dog": [1, 0]}, "train")


def test_values_are_numbers_of_any_spelling() -> None:
    found = targets_of(VALUES, {"x": [1, "2.5", np.float64(-3)], "y": [0, 1e3, "-4e-1"]}, "train")
    assert found.names == ("x", "y")
    np.testing.assert_allclose(found.values, [[1, 0], [2.5, 1000], [-3, -0.4]])


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "", "much", True, [1.0], 1e39])
def test_a_value_that_is_no_finite_number_is_refused_with_its_row(value: Any) -> None:
    with pytest.raises(DataError, match=r"train row 2: column y holds .*finite number"):
        targets_of(VALUES, {"x": [1, 2, 3], "y": [1, 2, value]}, "train")


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        (LABELS, np.zeros((3, 3)), r"labels must be numbers \[3, 2\]"),
        (LABELS, np.array([[0, 1], [1, 0], [2, 0]]), "sample 2 has 2 for a; it must be 0 or 1"),
        (VALUES, np.array([[0.0, 1], [np.nan, 0], [2, 0]]), "sample 1 has nan for a; it must be a finite"),
        (VALUES, np.array([[0.0, 1], [1, 0], [2, 1e39]]), "sample 2 has inf for b; it must be a finite"),
        (VALUES, np.array([["1", "2"]] * 3), r"labels must be numbers \[3, 2\]"),
        (LABELS, [[0, 1], [1]], "unequal shapes"),
        (MASKS, np.zeros((3, 8)), r"masks must be whole numbers \[3, height, width\]"),
        (MASKS, np.zeros((3, 8, 8)), r"masks must be whole numbers \[3, height, width\]; they are float64"),
        (MASKS, np.zeros((2, 8, 8), np.uint8), r"masks must be whole numbers \[3, height, width\]"),
    ],
)
def test_a_functions_labels_of_another_kind_are_refused(task: Any, given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        of_function(task, given, ("a", "b"), 3, "mine.py:train")


def stored(mask: np.ndarray, mode: str = "L", kind: str = "PNG") -> bytes:
    file, image = io.BytesIO(), Image.fromarray(mask.astype(np.uint8))
    if mode == "P":  # the colours are others than the numbers
        image.putpalette([200, 0, 0, 0, 200, 0, *[7] * 762])
    elif mode != "L":
        image = image.convert(mode)
    image.save(file, kind)
    return file.getvalue()


MASK = np.array([[0, 1, 255], [1, 1, 0]])


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_mask_is_the_numbers_of_its_pixels(mode: str) -> None:
    np.testing.assert_array_equal(decode_mask(stored(MASK, mode), MASKS), MASK)


def test_a_mask_of_16_bits_and_one_of_1_bit_are_read() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 1], [1, 0]], np.uint16)).save(file, "PNG")
    np.testing.assert_array_equal(decode_mask(file.getvalue(), MASKS), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(decode_mask(stored(255 * np.eye(3), "1"), MASKS), np.eye(3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (stored(np.array([[0, 2]])), "its mask has 2 in row 0, column 1; classes are 0 to 1"),
        (np.array([[0, 1], [-1, 0]]), "its mask has -1 in row 1, column 0"),
        (stored(MASK, "RGB"), "its mask is RGB, whose pixels are colours"),
        (stored(MASK)[:40], "its mask cannot be read|is no image"),
        (b"GIF89a?", "its mask"),
        (b"", "its mask is no image"),
    ],
)
def test_what_is_no_mask_of_these_classes_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_mask(given, MASKS)


def test_a_mask_is_resized_by_the_nearest_pixel() -> None:
    found = resized_mask(np.array([[0, 1], [255, 0]], np.uint8), (4, 6))
    np.testing.assert_array_equal(found, np.array([[0, 1], [255, 0]]).repeat(2, 0).repeat(3, 1))


def test_a_pictures_size_is_that_of_the_turned_picture() -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (5, 3)).save(file, "JPEG", exif=exif)
    assert size_of(file.getvalue()) == (5, 3) and size_of(stored(MASK)) == (2, 3)


@pytest.mark.parametrize(
    ("pictures", "masks", "message"),
    [
        (["a", "b"], ["a"], "b.png without a mask of the same name"),
        (["a"], ["a", "b", "c"], "b.png and 1 more without a picture"),
        ([], None, "no folders images and masks"),
    ],
)
def test_a_picture_without_a_mask_and_a_mask_without_a_picture_are_named(
    pictures: list[str], masks: list[str] | None, message: str, tmp_path: Path
) -> None:
    for folder, names in (("images", pictures), ("masks", masks)):
        for name in names or []:
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.png").write_bytes(stored(MASK))
    with pytest.raises(DataError, match=message):
        mask_files(tmp_path, frozenset({".png"}))
