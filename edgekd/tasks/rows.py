"""Rows: where the losses read a network's outputs, and what is recorded of a teacher. A row is a sample, or a pixel of it.

OneRow    a sample is a row: outputs `[n, outputs]`
Grid      some pixels of a map `[n, outputs, h, w]` are rows: every `stride`-th of both axes, from a start that is a hash of
          the sample and its view, so that teacher and student are read at the same pixels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.base.draws import Ids, integers

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from torch import Tensor

Targets = NDArray[Any]  # [n, ...]
Move = Callable[
    [Targets, int], Targets
]  # maps [n, h, w] and the number outside them -> the maps, moved as a view moves its samples
START = 0x9E7  # a coordinate of its own, so that a grid's start shares no random number with any view


class Rows(Protocol):
    """The functions that pick rows. They depend on samples, views and targets, never on outputs."""

    def kept(self, outputs: Tensor, ids: Ids, view: int) -> Tensor:
        """What is recorded of a network's outputs `[n, outputs, ...]`: `[n, ..., outputs]`."""
        ...

    def targets(self, targets: Tensor, ids: Ids, view: int) -> Tensor:
        """The targets `[n, ...]` of what `kept` keeps."""
        ...

    def chosen(self, targets: Tensor) -> Any:
        """The index that picks the rows, `[rows, outputs]` of what is kept and `[rows]` of its targets."""
        ...

    def follow(self, targets: Targets, move: Move) -> Targets:
        """The targets of samples that a view has moved."""
        ...


@dataclass(frozen=True)
class OneRow:
    """Each sample is a row, and its targets do not move."""

    def kept(self, outputs: Tensor, ids: Ids, view: int) -> Tensor:
        return outputs

    def targets(self, targets: Tensor, ids: Ids, view: int) -> Tensor:
        return targets

    def chosen(self, targets: Tensor) -> Any:
        return slice(None)

    def follow(self, targets: Targets, move: Move) -> Targets:
        return targets


@dataclass(frozen=True)
class Grid:
    """Some pixels of a map are rows, except those whose target is `ignore`."""

    stride: int
    ignore: int
    seed: int = 0

    def kept(self, outputs: Tensor, ids: Ids, view: int) -> Tensor:
        sample, y, x = self._places(outputs.shape[-2:], ids, view)
        return outputs[sample, :, y, x]  # indices beside a slice: their axes come first, so the classes are last

    def targets(self, targets: Tensor, ids: Ids, view: int) -> Tensor:
        sample, y, x = self._places(targets.shape[-2:], ids, view)
        return targets[sample, y, x]

    def chosen(self, targets: Tensor) -> Any:
        return targets != self.ignore

    def follow(self, targets: Targets, move: Move) -> Targets:
        return move(targets, self.ignore)

    def _places(self, size: tuple[int, ...], ids: Ids, view: int) -> tuple[Ids, Ids, Ids]:
        """The grid's samples `[n, 1, 1]`, rows `[n, rows, 1]` and columns `[n, 1, columns]` of pixels."""
        (height, width), step = size, self.stride
        y = integers(ids, min(step, height), self.seed, view, START)[:, None]
        x = integers(ids, min(step, width), self.seed, view, START + 1)[:, None]
        # Every sample keeps as many: what starts late ends at the last pixel that an early start would have.
        rows, columns = max(1, height // step), max(1, width // step)
        y, x = y + step * np.arange(rows), x + step * np.arange(columns)
        return np.arange(len(ids))[:, None, None], y[:, :, None], x[:, None, :]
