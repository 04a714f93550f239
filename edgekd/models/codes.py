"""Codes: the embeddings of all categories of a table, in one table of weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from edgekd.inputs.columns import WORDS


class Codes(nn.Module):
    """Codes int64 `[batch, categories]` to embeddings `[batch, categories, width]`. sizes: the codes of each category.

    The codes before the first word, of an unknown word and of no value, begin at zero: if no row of train has them, they
    say nothing in the end either.
    """

    starts: Tensor

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        starts = [0, *accumulate(sizes)][:-1]
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.int64), persistent=False)
        self.embedding = nn.Embedding(sum(sizes), width)
        with torch.no_grad():
            self.embedding.weight.uniform_(-(width**-0.5), width**-0.5)
            self.embedding.weight[[start + code for start in starts for code in range(WORDS)]] = 0

    def forward(self, codes: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(codes + self.starts)
        return embedded


def check_columns(numbers: int, categories: Sequence[int]) -> None:
    """Raise ValueError where there is no column, as for images."""
    if not numbers and not categories:
        raise ValueError("it reads the columns of a table, of which the data has none")
