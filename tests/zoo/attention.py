"""Attention and what else computes on tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.student import CLASSES

WIDTH, HEADS = 32, 2


class Tokens(nn.Module):
    """Patches `[n, 3, 16, 16]` as 16 tokens of 32; what is done to them is the case."""

    def __init__(self, body: nn.Module | None = None) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.block = body if body is not None else nn.Identity()
        self.head = nn.Linear(WIDTH, CLASSES)

    def body(self, x: Tensor) -> Tensor:
        found: Tensor = self.block(x)
        return found

    def tokens(self, x: Tensor) -> Tensor:
        found: Tensor = self.patches(x).flatten(2).transpose(1, 2)
        return found

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(self.tokens(x)).mean(1))
        return found


class SelfAttention(nn.Module):
    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if not self.attention.batch_first:
            y = y.transpose(0, 1)
            return x + self.attention(y, y, y)[0].transpose(0, 1)
        found: Tensor = x + self.attention(y, y, y, need_weights=False)[0]
        return found


class Vision(Tokens):
    """ViT: a class token, learned positions, one product for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.positions = (
            nn.Parameter(torch.randn(1, 1, WIDTH)),
            nn.Parameter(torch.randn(1, 17, WIDTH) * 0.1),
        )
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.tokens(x)], 1) + self.positions
        q, k, v = self.qkv(self.norm1(x)).reshape(x.shape[0], -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        x = x + self.projection(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        found: Tensor = self.head((x + self.mlp(self.norm2(x)))[:, 0])
        return found


class WrittenOut(nn.Module):
    """Attention as its products, the scores masked so that no token reads a later one."""

    def __init__(self, masked: float) -> None:
        super().__init__()
        self.qkv, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.full((16, 16), masked).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / WIDTH**0.5 + self.mask
        found: Tensor = x + self.projection(scores.softmax(-1) @ v)
        return found


class Linearised(nn.Module):
    """Linear attention by einsum: keys and values are multiplied first."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        context = torch.einsum("nld,nle->nde", k, self.v(x))
        total = torch.einsum("nld,nd->nl", q, k.sum(1))
        return x + torch.einsum("nld,nde->nle", q, context) / total.unsqueeze(-1)


class Windows(nn.Module):
    """Swin: attention within windows of 2x2 tokens, rolled by one."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        n, _, c = x.shape
        y = torch.roll(x.view(n, 4, 4, c), (-1, -1), (1, 2))
        y = y.view(n, 2, 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        y = self.attention(y, y, y, need_weights=False)[0]
        y = y.view(n, 2, 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, c)
        return x + torch.roll(y, (1, 1), (1, 2)).reshape(n, 16, c)


class Queries(nn.Module):
    """Learned queries read the tokens, as in DETR and Perceiver."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(4, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        q = self.queries.expand(x.shape[0], -1, -1)
        found: Tensor = q + self.attention(q, x, x, need_weights=False)[0]
        return found


class Mixer(nn.Module):
    """MLP-Mixer: linear layers over tokens, then over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        found: Tensor = x + self.channels(self.norm2(x))
        return found


class GatedMlp(nn.Module):
    """SwiGLU, as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.gate, self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        found: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return found


class Rotary(nn.Module):
    """Queries and keys turned by their position."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        angles = torch.outer(torch.arange(16.0), 100 ** -(torch.arange(0, WIDTH, 2) / WIDTH))
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.turned(self.q(x)), self.turned(self.k(x))
        return x + F.scaled_dot_product_attention(q, k, self.v(x))


class Recurrent(nn.Module):
    """A recurrent layer over the tokens."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)[0]
        return found


def encoder(**options: object) -> Tokens:
    options = {"dim_feedforward": 64, "batch_first": True, **options}
    return Tokens(nn.TransformerEncoderLayer(WIDTH, HEADS, **options))  # type: ignore[arg-type]


STUDENTS = {
    "self-attention": lambda: Tokens(SelfAttention()),
    "self-attention, sequence first": lambda: Tokens(SelfAttention(batch_first=False)),
    "encoder layer, norm first": lambda: encoder(norm_first=True),
    "encoder layer, norm last": lambda: encoder(norm_first=False),
    "encoder layer with gelu": lambda: encoder(norm_first=True, activation="gelu"),
    "two encoder layers": lambda: Tokens(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True, norm_first=True),
            2,
            nn.LayerNorm(WIDTH),
            enable_nested_tensor=False,
        )
    ),
    "vision transformer": Vision,
    "attention written out, masked": lambda: Tokens(WrittenOut(float("-inf"))),
    "attention masked by the least float": lambda: Tokens(WrittenOut(torch.finfo(torch.float32).min)),
    "attention masked by -10000": lambda: Tokens(WrittenOut(-10000.0)),
    "attention linearised by einsum": lambda: Tokens(Linearised()),
    "attention in windows": lambda: Tokens(Windows()),
    "learned queries": lambda: Tokens(Queries()),
    "mlp mixer": lambda: Tokens(Mixer()),
    "gated mlp": lambda: Tokens(GatedMlp()),
    "rotary positions": lambda: Tokens(Rotary()),
    "gru": lambda: Tokens(Recurrent(nn.GRU(WIDTH, WIDTH, batch_first=True))),
    "lstm of two directions": lambda: Tokens(
        Recurrent(nn.LSTM(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True))
    ),
}
