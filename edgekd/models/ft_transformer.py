"""FT-Transformer: each column of a table is a token (Gorishniy et al. 2021, 2106.11959)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekd.models.codes import Codes, check_columns


class Attention(nn.Module):
    """Multi-head self-attention over tokens `[batch, tokens, width]`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            part(x).reshape(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        shares = (q @ k.transpose(2, 3) * (width // self.heads) ** -0.5).softmax(-1)
        mixed: Tensor = self.out((shares @ v).transpose(1, 2).reshape(batch, tokens, width))
        return mixed


class Block(nn.Module):
    """Attention and a gated perceptron (ReGLU), each behind a norm and beside a residual: `[batch, tokens, width]`.

    The first block has no norm before its attention, as in the paper.
    """

    def __init__(self, width: int, heads: int, inner: int, is_first: bool) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if is_first else nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up, self.gate, self.down = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        out: Tensor = x + self.down(self.up(y) * torch.relu(self.gate(y)))
        return out


class FTTransformer(nn.Module):
    """Numbers `[batch, numbers]` and codes int64 `[batch, categories]` to logits `[batch, num_classes]`.

    The token of a number is its weight times the number plus its bias, that of a category its embedding plus its bias. A
    further token reads them all, and gives the logits. A table without numbers or without categories has the other
    argument alone.
    """

    def __init__(
        self, num_classes: int, numbers: int, categories: Sequence[int], width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        bound = width**-0.5
        self.numbers = numbers
        self.weight = nn.Parameter(torch.empty(numbers, width).uniform_(-bound, bound)) if numbers else None
        self.codes = Codes(categories, width) if categories else None
        self.bias = nn.Parameter(torch.empty(numbers + len(categories), width).uniform_(-bound, bound))
        self.reader = nn.Parameter(torch.empty(1, 1, width).uniform_(-bound, bound))
        inner = width * 4 // 3
        self.blocks = nn.Sequential(*(Block(width, heads, inner, number == 0) for number in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, *columns: Tensor) -> Tensor:
        tokens = []
        if self.weight is not None:
            tokens.append(columns[0][:, :, None] * self.weight)
        if self.codes is not None:
            tokens.append(self.codes(columns[-1]))
        x = (torch.cat(tokens, 1) if len(tokens) > 1 else tokens[0]) + self.bias
        x = self.blocks(torch.cat([self.reader.expand(x.shape[0], -1, -1), x], 1))
        logits: Tensor = self.head(torch.relu(self.norm(x[:, 0])))
        return logits


def ft_transformer(
    num_classes: int,
    numbers: int = 0,
    categories: Sequence[int] = (),
    width: int = 32,
    depth: int = 2,
    heads: int = 4,
) -> FTTransformer:
    """A small one: the paper's default has `width` 192, `depth` 3, `heads` 8, and dropout, which is left out here."""
    check_columns(numbers, categories)
    return FTTransformer(num_classes, numbers, categories, width, depth, heads)
