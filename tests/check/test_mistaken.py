"""The wrong answers that the report shows: the most probable ones, not all of one kind, with their pictures."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture

from edgekd.check.mistaken import mistakes_of, pictures_of
from edgekd.check.sheet import LARGEST, as_jpeg, enlarged
from edgekd.data import Unseen
from edgekd.figures.thumbnails import SIDE, at, size
from edgekd.inputs import Audio, Image
from edgekd.recipe import AudioData
from edgekd.tasks.classify import Classify

NAMES = ("cat", "dog", "owl")


def logits(*shares: tuple[float, ...]) -> NDArray[np.float32]:
    """Logits whose softmax gives these probabilities: their logarithms, moved by 5."""
    return np.log(np.array(shares, np.float32)) + 5


def test_the_most_probable_mistakes_come_first_with_both_answers() -> None:
    outputs = logits((0.9, 0.05, 0.05), (0.2, 0.7, 0.1), (0.05, 0.05, 0.9), (0.6, 0.3, 0.1))
    found = mistakes_of(NAMES, np.array([0, 0, 1, 1]), outputs.argmax(1), outputs, np.array([0, 0, 1, 2]))
    told = [(m.sample, m.label, m.answer, m.probability, m.teacher) for m in found]
    assert told == [(2, "dog", "owl", 90.0, "dog"), (1, "cat", "dog", 70.0, "cat"), (3, "dog", "cat", 60.0, "owl")]


def test_probabilities_of_the_graph_are_taken_as_they_are() -> None:
    outputs = np.array([[0.25, 0.75]])
    (found,) = mistakes_of(NAMES, np.array([0]), np.array([1]), outputs, logits=False)
    assert found.probability == 75.0 and found.teacher is None


def test_one_confusion_does_not_fill_the_sheet() -> None:
    """30 cats are sure dogs and one owl is an unsure cat: the owl is shown, though 29 mistakes are more probable."""
    outputs = logits(*[(0.04, 0.95 - i / 1000, 0.01 + i / 1000) for i in range(30)], (0.5, 0.3, 0.2))
    found = mistakes_of(NAMES, np.array([0] * 30 + [2]), outputs.argmax(1), outputs)
    assert len(found) == 24 and found[-1].label == "owl"
    assert [m.sample for m in found[:-1]] == list(range(23))


def test_a_model_without_mistakes_has_none_to_show() -> None:
    outputs = logits((0.9, 0.05, 0.05))
    assert mistakes_of(NAMES, np.array([0]), np.array([0]), outputs) == ()


def unseen(pixels: NDArray[np.uint8]) -> Unseen:
    n = len(pixels)
    height, width, channels = pixels.shape[1:]
    return Unseen(
        Image((height, width, channels)), lambda ids: {"input": pixels[ids]}, np.zeros(n, np.int64), Classify(NAMES), (),
        np.zeros(n, bool),
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(8, 8, 1), (200, 100, 3)])
def test_each_picture_lies_in_its_square_and_keeps_its_proportions(shape: tuple[int, int, int]) -> None:
    pixels = np.stack([np.full(shape, 30 * i, np.uint8) for i in range(8)])
    outputs = np.tile(logits((0.1, 0.8, 0.1)), (8, 1))
    mistakes = mistakes_of(NAMES, np.array([0, 2] * 4), outputs.argmax(1), outputs)
    with Picture.open(io.BytesIO(pictures_of(unseen(pixels), mistakes))) as image:
        sheet = np.asarray(image).astype(int)
    assert (sheet.shape[1], sheet.shape[0]) == size(8) == (6 * SIDE, 2 * SIDE)
    for number, mistake in enumerate(mistakes):
        left, top = at(number)
        square = sheet[top : top + SIDE, left : left + SIDE]
        assert abs(square[SIDE // 2, SIDE // 2] - 30 * mistake.sample).max() <= 4
        beside = 128 if shape[1] < shape[0] else 30 * mistake.sample  # grey beside a picture that is higher than wide
        assert abs(square[SIDE // 2, 4] - beside).max() <= 4


def test_sounds_have_no_pictures() -> None:
    outputs = logits((0.1, 0.8, 0.1))
    mistakes = mistakes_of(NAMES, np.array([0]), np.array([1]), outputs)
    audio = Audio(8, AudioData.model_validate({"input": "audio", "train": "a", "test": "b", "sample_rate": 8000}))
    sounds = replace(unseen(np.zeros((1, 8, 8, 1), np.uint8)), input=audio)
    assert pictures_of(sounds, mistakes) == b""


def test_a_small_picture_is_shown_by_its_pixels() -> None:
    checks = np.array([[0, 255], [255, 0]], np.uint8)[:, :, None].repeat(3, 2)
    assert np.array_equal(enlarged(checks, 4), checks.repeat(2, 0).repeat(2, 1))


def test_a_sheet_of_noise_is_written_so_that_the_page_can_hold_it() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1470, 732, 3), np.uint8)
    assert len(as_jpeg(noise)) <= LARGEST
