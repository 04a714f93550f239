"""MobileNetV2 (Sandler et al. 2018, 1801.04381): widths 0.5 for small images and 0.35 for larger ones."""

from __future__ import annotations

import torch
from torch import nn

from edgekd.models.widths import multiple_of

# Table 2 of the paper: expansion t, channels c, repeats n, stride s.
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """The inverted residual block (figure 4 d): expand, filter each channel, project; a skip if the shape stays."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        self.body = nn.Sequential(
            *([_conv(c_in, wide, 1)] if expansion > 1 else []),
            _conv(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.has_skip = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return x + y if self.has_skip else y


class MobileNetV2(nn.Module):
    """MobileNetV2: images `[batch, in_channels, h, w]` to logits `[batch, num_classes]`.

    With `small_images` the stem and the first strided stage keep the resolution, as is usual on CIFAR: the last map is an
    eighth of the image. Without it the strides are the paper's, and the last map is a 32nd: 5 x 5 of 150 x 150.
    """

    def __init__(self, width: float, num_classes: int, in_channels: int, small_images: bool) -> None:
        super().__init__()
        c_in = multiple_of(8, 32 * width)
        self.stem = _conv(in_channels, c_in, 3, 1 if small_images else 2)
        layers: list[nn.Module] = []
        for i, (expansion, channels, repeats, stride) in enumerate(BLOCKS):
            c_out = multiple_of(8, channels * width)
            first = 1 if small_images and i == 1 else stride
            for j in range(repeats):
                layers.append(InvertedResidual(c_in, c_out, first if j == 0 else 1, expansion))
                c_in = c_out
        self.blocks = nn.Sequential(*layers)
        last = multiple_of(8, 1280 * max(1.0, width))
        self.head = _conv(c_in, last, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))
        return logits


def mobilenetv2_05(num_classes: int = 10, in_channels: int = 3, small_images: bool = True) -> MobileNetV2:
    """MobileNetV2 of width 0.5: 0.70 million parameters with 10 classes."""
    return MobileNetV2(0.5, num_classes, in_channels, small_images)


def mobilenetv2_035(num_classes: int = 10, in_channels: int = 3, small_images: bool = False) -> MobileNetV2:
    """MobileNetV2 of width 0.35 with the paper's strides: 0.41 million parameters with 10 classes.

    It is meant for images from about 96 x 96 on. Smaller ones leave a last map of few positions: give `small_images`.
    """
    return MobileNetV2(0.35, num_classes, in_channels, small_images)
