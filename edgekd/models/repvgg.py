"""RepVGG-A0 (Ding et al. 2021, 2101.03697): three branches while it trains, plain 3x3 convolutions when it ships."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from edgekd.models.branches import Branched, conv_bn

# Tables 2 and 3 of the paper, A0: blocks and channels of each stage behind the stem of 48.
STAGES = ((2, 48), (4, 96), (14, 192), (1, 1280))
STEM = 48


class RepVGGBlock(Branched):
    """The block of figure 2: a 3x3 convolution, a 1x1 convolution, and the input where the shape stays, each with BatchNorm."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv_kxk = conv_bn(c_in, c_out, 3, stride)
        self.conv_1x1 = conv_bn(c_in, c_out, 1, stride)
        self.identity = nn.BatchNorm2d(c_in) if c_in == c_out and stride == 1 else None

    def branches(self) -> Sequence[nn.Module]:
        return [self.conv_kxk, self.conv_1x1, *([] if self.identity is None else [self.identity])]


class RepVGG(nn.Module):
    """RepVGG: images `[batch, in_channels, h, w]` to logits `[batch, num_classes]`. Parameters are named as timm's `repvgg_a0`.

    With `small_images` the stem and the first stage keep the resolution: the last map is an eighth of the image. Without it
    each stage halves it, as in the paper, and the last map is a 32nd.
    """

    def __init__(self, num_classes: int, in_channels: int, small_images: bool) -> None:
        super().__init__()
        first = 1 if small_images else 2
        self.stem = RepVGGBlock(in_channels, STEM, first)
        self.stages, c_in = nn.Sequential(), STEM
        for number, (blocks, c_out) in enumerate(STAGES):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 1 if block else first if number == 0 else 2
                stage.append(RepVGGBlock(c_in, c_out, stride))
                c_in = c_out
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential()
        self.head.add_module("fc", nn.Linear(c_in, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.pool(self.stages(self.stem(x))).flatten(1)))


def repvgg_a0(num_classes: int = 10, in_channels: int = 3, small_images: bool = False) -> RepVGG:
    """RepVGG-A0: with 1,000 classes 9.1 million parameters while it trains, 8.3 million when it ships.

    Calibrated int8 (`quantize.mode = "ptq"`) costs RepVGG much accuracy (Chu et al. 2022, 2212.01593): take "qat" or "auto".
    """
    return RepVGG(num_classes, in_channels, small_images)
