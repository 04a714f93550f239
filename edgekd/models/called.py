"""CalledModel: a teacher that is a function of a table's columns, as of a forest of trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.inputs.columns import WORDS, Columns

Table = Mapping[str, npt.NDArray[Any]]


class CalledModel(nn.Module):
    """A function of a table to its outputs `[rows, classes]`, without weights, gradients and layers.

    The function gets a dict: each number as float32 `[rows]`, NaN for no value; each category as texts `[rows]`, None for
    no value and for a word that train has not; each part of a date under `column.part`.
    """

    def __init__(self, function: Callable[[Table], Any], columns: Columns, called: str) -> None:
        super().__init__()
        self.function, self.columns, self.called = function, columns, called
        self.words = [np.array([*[None] * WORDS, *each.words], object) for each in columns.categories]

    def forward(self, *arrays: Tensor) -> Tensor:
        outputs = np.asarray(self.function(self.table(*(array.cpu().numpy() for array in arrays))))
        if outputs.ndim != 2 or len(outputs) != len(arrays[0]) or outputs.dtype.kind not in "fiu":
            raise ModelError(
                f"'{self.called}' gave {outputs.dtype} {list(outputs.shape)} for a table of {len(arrays[0])} rows; it must give "
                "numbers [rows, classes]"
            )
        return torch.from_numpy(outputs.astype(np.float32))

    def table(self, *arrays: npt.NDArray[Any]) -> Table:
        """The columns by name, from the stored numbers and codes."""
        table: dict[str, npt.NDArray[Any]] = {}
        if self.columns.numbers:
            table |= {number.name: arrays[0][:, at] for at, number in enumerate(self.columns.numbers)}
        for at, category in enumerate(self.columns.categories):
            table[category.column] = self.words[at][arrays[-1][:, at]]
        return table
