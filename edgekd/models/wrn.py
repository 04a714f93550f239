"""Wide residual networks with pre-activation blocks (Zagoruyko & Komodakis 2016, 1605.07146): `wrn_16_2`."""

from __future__ import annotations

import torch
from torch import nn


class PreActBlock(nn.Module):
    """A block of twice BN-ReLU-conv and a skip (figure 1 b).

    `[batch, c_in, h, w]` to `[batch, c_out, h/stride, w/stride]`.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(x))
        # A skip that changes the width starts from the activated input, as in the authors' code.
        skip = x if isinstance(self.skip, nn.Identity) else self.skip(y)
        out: torch.Tensor = skip + self.conv2(self.relu(self.bn2(self.conv1(y))))
        return out


class WideResNet(nn.Module):
    """A WRN of depth 6n + 4: images `[batch, in_channels, h, w]` to logits `[batch, num_classes]`."""

    def __init__(self, depth: int, widen: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        n = (depth - 4) // 6
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.layer1 = self._layer(n, widths[0], widths[1], 1)
        self.layer2 = self._layer(n, widths[1], widths[2], 2)
        self.layer3 = self._layer(n, widths[2], widths[3], 2)
        self.bn = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)

    @staticmethod
    def _layer(n: int, c_in: int, c_out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(PreActBlock(c_in, c_out, stride), *(PreActBlock(c_out, c_out, 1) for _ in range(n - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        logits: torch.Tensor = self.fc(self.pool(self.relu(self.bn(x))).flatten(1))
        return logits


def wrn_16_2(num_classes: int = 10, in_channels: int = 3) -> WideResNet:
    """The network WRN-16-2: 0.7 million parameters with 100 classes."""
    return WideResNet(16, 2, num_classes, in_channels)
