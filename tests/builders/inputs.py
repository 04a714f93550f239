"""Networks of other inputs than one image: texts with a mask and a free length, sounds, clips, and maps that grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.models.trace import Free, FreeSize
from edgekd.runtime.check import open_session

WORDS, LONGEST, WIDTH, CLASSES = 50, 32, 32, 5
LENGTH = FreeSize("length", at_most=LONGEST, at_least=4)
FREE: Free = ({1: LENGTH}, {1: LENGTH})
"""Of `Reader`: ids and mask, both `[batch, length]`."""


class Reader(nn.Module):
    """A transformer encoder of one block: ids and mask, int64 `[batch, length]`, to logits `[batch, CLASSES]`.

    With `tags` it gives one answer a token, `[batch, length, CLASSES]`. `hidden` is what the mask puts in place of a score.
    """

    def __init__(self, *, tags: bool = False, hidden: float = -1e4) -> None:
        super().__init__()
        self.tags, self.hidden = tags, hidden
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        batch, length = ids.shape
        x = self.words(ids) + self.places(torch.arange(length, device=ids.device))
        q, k, v = (
            project(self.norm1(x)).reshape(batch, length, 2, WIDTH // 2).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) / (WIDTH // 2) ** 0.5
        shares = scores.masked_fill(mask[:, None, None, :] == 0, self.hidden).softmax(-1)
        x = x + self.out((shares @ v).transpose(1, 2).reshape(batch, length, WIDTH))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        if not self.tags:
            present = mask.unsqueeze(-1).float()
            x = (x * present).sum(1) / present.sum(1)
        found: Tensor = self.head(x)
        return found


def texts(n: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64 `[n, length]`; every second text is shorter, and filled up with the id 0."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (n, length), generator=generator)
    mask = torch.ones(n, length, dtype=torch.int64)
    mask[1::2, length // 2 :] = 0
    return ids * mask, mask


class Sound(nn.Module):
    """Conv1d with its norm, strided, dilated and grouped, on a wave `[batch, 16, time]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(16, 32, 5, 2, 2, bias=False), nn.BatchNorm1d(32)
        self.wide, self.deep = (
            nn.Conv1d(32, 32, 3, padding=2, dilation=2),
            nn.Conv1d(32, 32, 3, padding="same", groups=32),
        )
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = x + self.deep(self.wide(x).relu()).relu()
        found: Tensor = self.head(x.mean(2))
        return found


class Clip(nn.Module):
    """Conv3d with its norm on `[batch, 16, time, height, width]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv3d(16, 32, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(32)
        self.second, self.head = nn.Conv3d(32, 32, (3, 1, 3), padding=(1, 0, 1)), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu()).relu()
        found: Tensor = self.head(x.mean((2, 3, 4)))
        return found


class Longer(nn.Module):
    """ConvTranspose1d, with groups and without, on `[batch, 16, time]` to a map `[batch, CLASSES, 4 * time]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv1d(16, 32, 3, padding=1), nn.ConvTranspose1d(32, 32, 2, 2)
        self.again, self.out = nn.ConvTranspose1d(32, 32, 4, 2, 1, groups=2), nn.Conv1d(32, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.again(self.up(self.first(x).relu()).relu()).relu())
        return found


class Larger(nn.Module):
    """ConvTranspose2d with its norm, then `interpolate` by a factor and to another map's size: `[batch, CLASSES, h, w]`."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.norm = nn.Conv2d(16, 32, 3, 2, 1), nn.ConvTranspose2d(32, 32, 2, 2), nn.BatchNorm2d(32)
        self.deep, self.out = nn.Conv2d(32, 32, 3, 2, 1), nn.Conv2d(32, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        half = self.down(x).relu()
        y = self.norm(self.up(half)).relu()
        quarter = nn.functional.interpolate(self.deep(half).relu(), scale_factor=2, mode="nearest")
        y = y + nn.functional.interpolate(quarter, size=y.shape[2:], mode="bilinear", align_corners=False)
        found: Tensor = self.out(y)
        return found


@dataclass(frozen=True)
class Case:
    """A network, what makes `n` samples of a size for it, the free sizes of its inputs, and two sizes to try."""

    network: Callable[[], nn.Module]
    samples: Callable[[int, int], tuple[Tensor, ...]]
    free: Free
    sizes: tuple[int, int] = (12, 20)

    def made(self) -> nn.Module:
        """The network in evaluation mode, the same one each time."""
        torch.manual_seed(0)
        return self.network().eval()


def _noise(*shape: int) -> tuple[Tensor]:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)),)


_TIME, _HEIGHT, _WIDTH = FreeSize("time", at_least=8), FreeSize("height", at_least=8), FreeSize("width", at_least=8)
CASES: dict[str, Case] = {
    "reader": Case(Reader, texts, FREE),
    "tags": Case(lambda: Reader(tags=True, hidden=float("-inf")), texts, FREE),
    "sound": Case(Sound, lambda n, size: _noise(n, 16, size), ({2: _TIME},)),
    "clip": Case(Clip, lambda n, size: _noise(n, 16, size, 8, 8), ({2: _TIME},), (8, 10)),
    "longer": Case(Longer, lambda n, size: _noise(n, 16, size), ({2: _TIME},)),
    "larger": Case(Larger, lambda n, size: _noise(n, 16, size, 2 * size), ({2: _HEIGHT, 3: _WIDTH},)),
}


def answer(path: Path, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """What onnxruntime computes of a file, its inputs in their order."""
    session = open_session(path)
    given = {value.name: x.numpy() for value, x in zip(session.get_inputs(), batch, strict=True)}
    return [torch.from_numpy(np.asarray(found)) for found in session.run(None, given)]
