"""What the students of the zoo are made of."""

from __future__ import annotations

from torch import Tensor, nn

CHANNELS = 16  # no fewer: TensorRT's schemes leave narrower layers in float
CLASSES = 10
SIZE = 16


class Student(nn.Module):
    """A stem `[n, 3, 16, 16]` to `[n, 16, 8, 8]`, a body, which is the case, and a head on its mean over positions."""

    def __init__(self, body: nn.Module | None = None, channels: int = CHANNELS) -> None:
        super().__init__()
        self.stem = conv_norm(3, CHANNELS, stride=2)
        self.block = body if body is not None else nn.Identity()
        self.head = nn.Linear(channels, CLASSES)

    def body(self, x: Tensor) -> Tensor:
        found: Tensor = self.block(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return found


def conv(into: int = CHANNELS, out: int = CHANNELS, kernel: int = 3, **options: object) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **options)  # type: ignore[arg-type]


def conv_norm(into: int = CHANNELS, out: int = CHANNELS, kernel: int = 3, **options: object) -> nn.Sequential:
    return nn.Sequential(conv(into, out, kernel, bias=False, **options), nn.BatchNorm2d(out), nn.ReLU())
