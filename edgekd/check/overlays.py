"""overlays_of: pictures of the test split with their masks and the model's, side by side, for the report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekd.check.sheet import as_jpeg, enlarged
from edgekd.data import Unseen
from edgekd.inputs import Image
from edgekd.scripts.run import palette
from edgekd.tasks.protocol import Answers
from edgekd.tasks.segment import Segment

SAMPLES = 6
SIDE = 240  # pixels of a picture's longer side in the sheet
GAP = 6


def overlays_of(test: Unseen, answers: Answers) -> bytes:
    """A JPEG of `SAMPLES` rows: the picture, the picture under its mask, and the picture under the model's mask.

    The rows are evenly spaced from the sample with the lowest metric to the one with the highest. Empty for what are no
    masks of pictures.
    """
    if not isinstance(test.input, Image) or not isinstance(test.task, Segment):
        return b""
    judged = test.task.judge(answers, test.labels)
    order = np.argsort([test.task.metric.value(each[None]) for each in judged], kind="stable")
    ids = order[np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).astype(np.int64)]
    pixels = test.get(ids)[test.input.fields[0].name]
    colours = np.frombuffer(palette(256), np.uint8).reshape(-1, 3)
    rows = [
        _side_by_side([picture, _under(picture, truth, colours), _under(picture, answer, colours)])
        for picture, truth, answer in zip(
            np.broadcast_to(pixels, (*pixels.shape[:3], 3)), test.labels[ids], answers[ids], strict=True
        )
    ]
    return as_jpeg(np.concatenate(rows)[:-GAP])


def _under(picture: NDArray[np.uint8], mask: NDArray[np.integer], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, half covered by the colours of its classes; class 0 has none. Ignored pixels get a colour of their own."""
    half = (picture.astype(np.uint16) + colours[mask]) // 2
    return np.where((mask > 0)[..., None], half, picture).astype(np.uint8)


def _side_by_side(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures of one size in a row, their longer side `SIDE` pixels, with white between and below them."""
    parts = [enlarged(picture, SIDE) for picture in pictures]
    return np.concatenate([np.pad(part, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for part in parts], 1)[
        :, :-GAP
    ]
