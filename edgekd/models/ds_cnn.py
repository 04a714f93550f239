"""DS-CNN: MLPerf Tiny's network for keyword spotting (Banbury et al. 2021, 2106.07597; after Zhang et al. 2017, 1711.07128)."""

from __future__ import annotations

import torch
from torch import nn


class DSCNN(nn.Module):
    """DS-CNN: spectrograms `[batch, in_channels, bands, frames]` to logits `[batch, num_classes]`.

    A convolution over 4 bands and 10 frames with stride 2, four depthwise-separable convolutions, the mean, a linear layer.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_normalised(nn.Conv2d(in_channels, width, (4, 10), 2, padding=(1, 5), bias=False)))
        blocks: list[nn.Module] = []
        for _ in range(4):
            blocks += _normalised(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False))
            blocks += _normalised(nn.Conv2d(width, width, 1, bias=False))
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.pool(self.blocks(self.stem(x))).flatten(1))
        return logits


def _normalised(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


def ds_cnn(num_classes: int = 12, in_channels: int = 1, width: int = 64) -> DSCNN:
    """MLPerf Tiny's keyword network: 23,180 parameters with 12 classes.

    MLPerf's has 23,756 that are trained: its nine convolutions have biases. Here BatchNorm's shift does the same. MLPerf
    trains with dropout; here there is none.
    """
    return DSCNN(num_classes, in_channels, width)
