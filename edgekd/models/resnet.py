"""ResNets for CIFAR: `resnet8` of MLPerf Tiny and `resnet20` of He et al. 2015 (1512.03385, section 4.2)."""

from __future__ import annotations

import torch
from torch import nn


class BasicBlock(nn.Module):
    """A block of two 3x3 convolutions and a skip, `[batch, c_in, h, w]` to `[batch, c_out, h/stride, w/stride]`."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU()
        # A 1x1 convolution on the skip (option B of the paper), without BatchNorm as in MLPerf Tiny's network.
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: torch.Tensor = self.relu(y + self.skip(x))
        return out


class ResNet(nn.Module):
    """A ResNet for CIFAR: images `[batch, in_channels, h, w]` to logits `[batch, num_classes]`."""

    def __init__(self, blocks: int, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = self._layer(blocks, width, width, 1)
        self.layer2 = self._layer(blocks, width, 2 * width, 2)
        self.layer3 = self._layer(blocks, 2 * width, 4 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)

    @staticmethod
    def _layer(blocks: int, c_in: int, c_out: int, stride: int) -> nn.Sequential:
        first = BasicBlock(c_in, c_out, stride)
        return nn.Sequential(first, *(BasicBlock(c_out, c_out, 1) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn(self.stem(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def resnet8(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> ResNet:
    """MLPerf Tiny's image classification network (77,850 parameters with 10 classes).

    In MLPerf Tiny its convolutions have biases; here they have none. All but the two convolutions on the skips are
    followed by BatchNorm, whose shift does the same.
    """
    return ResNet(1, num_classes, in_channels, width)


def resnet20(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> ResNet:
    """The 20-layer network of the paper's table 6 (0.27 million parameters), with 1x1 convolutions on the skips."""
    return ResNet(3, num_classes, in_channels, width)
