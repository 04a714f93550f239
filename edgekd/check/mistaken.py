"""mistakes_of, pictures_of: test samples that the shipped model gets wrong, and their pictures on one sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekd.check.confusion import Classes
from edgekd.check.sheet import as_jpeg, enlarged
from edgekd.data import Unseen
from edgekd.figures.figures import Mistake
from edgekd.figures.thumbnails import SIDE, at, size
from edgekd.inputs import Image

SHOWN = 24
OF_A_PAIR = 3  # mistakes of one class for one other; otherwise one confusion could fill the sheet
BLOCK = 1024  # rows of outputs that are read at a time


def mistakes_of(
    names: Sequence[str],
    labels: Classes,
    answers: Classes,
    outputs: NDArray[np.floating],
    taught: Classes | None = None,
    *,
    logits: bool = True,
) -> tuple[Mistake, ...]:
    """Up to `SHOWN` wrong answers, the most probable first, because these say most about labels and model.

    outputs: `[samples, classes]`, logits or, without `logits`, probabilities; they may be a map of a file. labels, answers,
    taught: classes `[samples]`. The first `OF_A_PAIR` mistakes of each pair of classes come before others of that pair.
    """
    wrong = np.flatnonzero(answers != labels)
    parts = [probabilities(outputs[ids], logits).max(1) for ids in np.split(wrong, range(BLOCK, len(wrong), BLOCK))]
    sure = np.concatenate(parts)
    order = np.argsort(-sure, kind="stable")
    seen = Counter[tuple[int, int]]()
    first: list[int] = []
    later: list[int] = []
    for place in order:
        pair = int(labels[wrong[place]]), int(answers[wrong[place]])
        seen[pair] += 1
        (first if seen[pair] <= OF_A_PAIR else later).append(int(place))
        if len(first) == SHOWN:
            break
    taken = sorted((first + later)[:SHOWN], key=lambda place: -sure[place])
    return tuple(
        Mistake(
            sample=int(wrong[place]),
            label=names[labels[wrong[place]]],
            answer=names[answers[wrong[place]]],
            probability=round(100 * float(sure[place]), 1),
            teacher=None if taught is None else names[taught[wrong[place]]],
        )
        for place in taken
    )


def probabilities(outputs: NDArray[np.floating], logits: bool) -> NDArray[np.float64]:
    """The probabilities `[n, classes]` of rows of logits (softmax), or the rows themselves."""
    rows = np.asarray(outputs, np.float64)
    if not logits:
        return rows
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def pictures_of(test: Unseen, mistakes: Sequence[Mistake]) -> bytes:
    """A JPEG with the pictures of the mistakes in their order, laid out as edgekd.figures.thumbnails says.

    Empty without mistakes, and for samples that are no pictures.
    """
    if not isinstance(test.input, Image) or not mistakes:
        return b""
    ids = np.array([mistake.sample for mistake in mistakes])
    pixels = test.get(ids)[test.input.fields[0].name]
    width, height = size(len(mistakes))
    sheet = np.full((height, width, 3), 255, np.uint8)
    for number, picture in enumerate(np.broadcast_to(pixels, (*pixels.shape[:3], 3))):
        left, top = at(number)
        sheet[top : top + SIDE, left : left + SIDE] = _square(picture)
    return as_jpeg(sheet)


def _square(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture in the middle of a grey square of `SIDE` pixels."""
    own = enlarged(picture, SIDE)
    square = np.full((SIDE, SIDE, 3), 128, np.uint8)
    top, left = ((SIDE - length) // 2 for length in own.shape[:2])
    square[top : top + own.shape[0], left : left + own.shape[1]] = own
    return square
