"""at: where a picture lies on the sheet of wrong answers, mistaken.jpg."""

from __future__ import annotations

SIDE = 96  # pixels; a multiple of JPEG's blocks of 16, so that no picture bleeds into its neighbour
COLUMNS = 6


def at(number: int) -> tuple[int, int]:
    """The left and upper edge in pixels of the picture `number`, from 0, in rows of `COLUMNS`."""
    row, column = divmod(number, COLUMNS)
    return SIDE * column, SIDE * row


def size(pictures: int) -> tuple[int, int]:
    """The width and height in pixels of a sheet of so many pictures."""
    return SIDE * COLUMNS, SIDE * -(-pictures // COLUMNS)
