"""MLP: a multilayer perceptron over the columns of a table, with embeddings of categories (Gorishniy et al. 2021, 2106.11959)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekd.models.codes import Codes, check_columns


class MLP(nn.Module):
    """Numbers `[batch, numbers]` and codes int64 `[batch, categories]` to logits `[batch, num_classes]`.

    A table without numbers or without categories has the other argument alone.
    """

    def __init__(
        self, num_classes: int, numbers: int, categories: Sequence[int], width: int, depth: int, embedding: int
    ) -> None:
        super().__init__()
        self.codes = Codes(categories, embedding) if categories else None
        self.numbers = numbers
        inner = numbers + len(categories) * embedding
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(inner, width), nn.ReLU()]
            inner = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inner, num_classes)

    def forward(self, *columns: Tensor) -> Tensor:
        parts = list(columns[:1]) if self.numbers else []
        if self.codes is not None:
            parts.append(self.codes(columns[-1]).flatten(1))
        x = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        logits: Tensor = self.head(self.layers(x))
        return logits


def mlp(
    num_classes: int,
    numbers: int = 0,
    categories: Sequence[int] = (),
    width: int = 64,
    depth: int = 2,
    embedding: int = 4,
) -> MLP:
    """The perceptron of the paper with its `depth` layers of `width`, without dropout; each category has `embedding` numbers."""
    check_columns(numbers, categories)
    return MLP(num_classes, numbers, categories, width, depth, embedding)
