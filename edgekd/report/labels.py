"""place_labels: puts the names of points where they cover no point and no other name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LETTER = 7.6  # pixels; the mean width of a letter in bold at the labels' size
ABOVE, BELOW, HEIGHT = 10, 20, 16  # pixels from the point to the text's base line; height of a line
BESIDE = 10  # pixels from the point to the text
REACH = 8  # pixels around a point that a name keeps free
STEPS = 12  # lines above and below the point that are tried


@dataclass(frozen=True)
class Label:
    """The place of a name: the base line's start or end (`anchor`), in pixels."""

    x: float
    y: float
    anchor: str
    width: float

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the text."""
        left = self.x if self.anchor == "start" else self.x - self.width
        return left, self.y - HEIGHT + 4, left + self.width, self.y + 4


def place_labels(points: Sequence[tuple[float, float, str]], size: tuple[int, int]) -> list[Label]:
    """A place for the name of each point (x, y, name), in a drawing of `size` (width, height), in pixels.

    The nearest free place is taken, at the right of the point before the left. Where none is free, a name covers something.
    """
    taken = [(x - REACH, y - REACH, x + REACH, y + REACH) for x, y, _ in points]
    labels: list[Label] = []
    for x, y, name in points:
        tried = [
            label
            for step in range(STEPS)
            for down in (-ABOVE - HEIGHT * step, BELOW + HEIGHT * step)
            for label in _beside(x, y + down, LETTER * len(name))
            if _within(label.box(), size)
        ]
        free = (label for label in tried if not any(_overlap(label.box(), box) for box in taken))
        label = next(free, tried[0] if tried else _beside(x, y - ABOVE, LETTER * len(name))[0])
        labels.append(label)
        taken.append(label.box())
    return labels


def _beside(x: float, y: float, width: float) -> tuple[Label, Label]:
    return Label(x + BESIDE, y, "start", width), Label(x - BESIDE, y, "end", width)


def _within(box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
