"""MobileOne-S0 (Vasu et al. 2022, 2206.04040): many branches while it trains, a plain mobile network when it ships."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from edgekd.errors import ModelError
from edgekd.models.branches import Branched, conv_bn

# The paper's S0: blocks and channels of each stage behind the stem of 48.
STAGES = ((2, 48), (8, 128), (10, 256), (1, 1024))
STEM = 48


class MobileOneBlock(Branched):
    """Half a block of the paper: `branches` convolutions, a 1x1 convolution beside larger ones, and the input where the shape stays.

    Each has a BatchNorm of its own.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, groups: int, branches: int) -> None:
        super().__init__()
        self.conv_kxk = nn.ModuleList(conv_bn(c_in, c_out, kernel, stride, groups) for _ in range(branches))
        self.conv_scale = conv_bn(c_in, c_out, 1, stride, groups) if kernel > 1 else None
        self.identity = nn.BatchNorm2d(c_in) if c_in == c_out and stride == 1 else None

    def branches(self) -> Sequence[nn.Module]:
        return [*self.conv_kxk, *(branch for branch in (self.conv_scale, self.identity) if branch is not None)]


class MobileOne(nn.Module):
    """MobileOne: images `[batch, in_channels, h, w]` to logits `[batch, num_classes]`. Parameters are named as timm's `mobileone_s0`.

    With `small_images` the stem and the first stage keep the resolution: the last map is an eighth of the image. Without it
    each stage halves it, as in the paper, and the last map is a 32nd.
    """

    def __init__(self, num_classes: int, in_channels: int, small_images: bool, branches: int) -> None:
        super().__init__()
        first = 1 if small_images else 2
        self.stem = MobileOneBlock(in_channels, STEM, 3, first, 1, 1)
        self.stages, c_in = nn.Sequential(), STEM
        for number, (blocks, c_out) in enumerate(STAGES):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 1 if block else first if number == 0 else 2
                stage.append(MobileOneBlock(c_in, c_in, 3, stride, c_in, branches))
                stage.append(MobileOneBlock(c_in, c_out, 1, 1, 1, branches))
                c_in = c_out
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential()
        self.head.add_module("fc", nn.Linear(c_in, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.pool(self.stages(self.stem(x))).flatten(1)))


def mobileone_s0(
    num_classes: int = 10, in_channels: int = 3, small_images: bool = False, branches: int = 4
) -> MobileOne:
    """MobileOne-S0: with 1,000 classes 5.3 million parameters while it trains, 2.1 million when it ships.

    branches: the convolutions that train side by side (the paper's k); fewer train faster, and the same ships.
    """
    if branches < 1:
        raise ModelError(f"mobileone-s0 with {branches} branches; give at least 1")
    return MobileOne(num_classes, in_channels, small_images, branches)
