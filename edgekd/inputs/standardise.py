"""Standardise: fills missing numbers and standardises all, in the training loop and in the exported graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """Numbers float32 `[n, numbers]` with NaN for no value to float32 `[n, numbers + indicated]`.

    `(x - mean) / std` of each number, with `fill` where there is none; then for each number in `indicated` a 1 where there
    is none, else 0. Codes pass through.
    """

    # x - mean first, on purpose: of a large mean and a small spread, as of years, x * scale - shift would lose the digits.

    fill: Tensor
    mean: Tensor
    scale: Tensor
    indicated: Tensor

    def __init__(
        self, fill: Sequence[float], mean: Sequence[float], std: Sequence[float], indicated: Sequence[int]
    ) -> None:
        super().__init__()
        self.register_buffer("fill", torch.tensor(fill, dtype=torch.float32))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor([1 / each for each in std], dtype=torch.float32))
        self.register_buffer("indicated", torch.tensor(indicated, dtype=torch.int64))

    def forward(self, numbers: Tensor, *codes: Tensor) -> tuple[Tensor, ...]:
        lacking = torch.isnan(numbers)
        x = (torch.where(lacking, self.fill, numbers) - self.mean) * self.scale
        if len(self.indicated):
            x = torch.cat([x, lacking.to(torch.float32).index_select(1, self.indicated)], 1)
        return (x, *codes)


class AsTheyAre(nn.Module):
    """The arrays unchanged: for codes alone, and for a teacher that reads the stored numbers."""

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        return arrays
