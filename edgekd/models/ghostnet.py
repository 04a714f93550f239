"""GhostNet (Han et al. 2020, 1911.11907): half of each map is a cheap depthwise convolution of the other half."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.models.widths import multiple_of


class Row(NamedTuple):
    """A row of the paper's table 1: kernel, channels between and behind, SE, stride."""

    kernel: int
    wide: int
    c_out: int
    excite: bool
    stride: int


# Table 1 in the stages of the authors' code.
STAGES = (
    (Row(3, 16, 16, False, 1),),
    (Row(3, 48, 24, False, 2),), (Row(3, 72, 24, False, 1),),
    (Row(5, 72, 40, True, 2),), (Row(5, 120, 40, True, 1),),
    (Row(3, 240, 80, False, 2),),
    (Row(3, 200, 80, False, 1), Row(3, 184, 80, False, 1), Row(3, 184, 80, False, 1), Row(3, 480, 112, True, 1), Row(3, 672, 112, True, 1)),
    (Row(5, 672, 160, True, 2),),
    (Row(5, 960, 160, False, 1), Row(5, 960, 160, True, 1), Row(5, 960, 160, False, 1), Row(5, 960, 160, True, 1)),
)  # fmt: skip
HEAD = 1280


class Ghost(nn.Module):
    """The ghost module (section 3.1, ratio 2): a 1x1 convolution for half the channels, a 3x3 of each for the others."""

    def __init__(self, c_in: int, c_out: int, activated: bool) -> None:
        super().__init__()
        half = c_out // 2
        self.primary_conv = nn.Sequential(*_conv(c_in, half, 1), *([nn.ReLU()] if activated else []))
        self.cheap_operation = nn.Sequential(*_conv(half, half, 3, 1, half), *([nn.ReLU()] if activated else []))

    def forward(self, x: Tensor) -> Tensor:
        own = self.primary_conv(x)
        return torch.cat([own, self.cheap_operation(own)], 1)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: each channel of `[batch, channels, h, w]` times a factor in 0..1 from their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = multiple_of(4, channels / 4)
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.act1, self.gate, self.pool = nn.ReLU(), nn.Hardsigmoid(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * cast(Tensor, self.gate(self.conv_expand(self.act1(self.conv_reduce(self.pool(x))))))


class Bottleneck(nn.Module):
    """The ghost bottleneck (figure 3): a ghost module expands, another projects; a depthwise convolution strides."""

    def __init__(self, row: Row, c_in: int, wide: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.ghost1 = Ghost(c_in, wide, activated=True)
        self.conv_dw: nn.Module = nn.Identity()
        self.bn_dw: nn.Module = nn.Identity()
        # A block of the paper that strides keeps its depthwise convolution where small images keep their size.
        if row.stride > 1:
            self.conv_dw, self.bn_dw = _conv(wide, wide, row.kernel, stride, wide)
        self.se = SqueezeExcite(wide) if row.excite else nn.Identity()
        self.ghost2 = Ghost(wide, c_out, activated=False)
        keeps = c_in == c_out and row.stride == 1
        aside = [*_conv(c_in, c_in, row.kernel, stride, c_in), *_conv(c_in, c_out, 1)]
        self.shortcut = nn.Sequential(*([] if keeps else aside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ghost2(self.se(self.bn_dw(self.conv_dw(self.ghost1(x)))))
        return cast(Tensor, y + self.shortcut(x))


class GhostNet(nn.Module):
    """GhostNet: images `[batch, in_channels, h, w]` to logits `[batch, num_classes]`. Parameters as timm's `ghostnet_100`.

    With `small_images` the stem and the first strided block keep the resolution: the last map is an eighth of the image.
    Without it the strides are the paper's, and the last map is a 32nd. The authors train with dropout; here there is none.
    First weights come by `copy`; `slice` and the others choose no channels across the concatenations.
    """

    def __init__(self, width: float, num_classes: int, in_channels: int, small_images: bool) -> None:
        super().__init__()
        c_in = multiple_of(4, 16 * width)
        self.conv_stem, self.bn1 = _conv(in_channels, c_in, 3, 1 if small_images else 2)
        self.blocks = nn.Sequential()
        wide = c_in
        for number, rows in enumerate(STAGES):
            stage = nn.Sequential()
            for row in rows:
                wide, c_out = multiple_of(4, row.wide * width), multiple_of(4, row.c_out * width)
                stage.append(Bottleneck(row, c_in, wide, c_out, 1 if small_images and number == 1 else row.stride))
                c_in = c_out
            self.blocks.append(stage)
        last = nn.Sequential()
        for name, layer in zip(("conv", "bn1", "act"), (*_conv(c_in, wide, 1), nn.ReLU()), strict=True):
            last.add_module(name, layer)
        self.blocks.append(nn.Sequential(last))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv_head = nn.Conv2d(wide, HEAD, 1)
        self.act = nn.ReLU()
        self.classifier = nn.Linear(HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        return cast(Tensor, self.classifier(self.act(self.conv_head(self.pool(x))).flatten(1)))


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and its BatchNorm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(c_out)


def ghostnet(num_classes: int = 10, in_channels: int = 3, small_images: bool = False, width: float = 1.0) -> GhostNet:
    """GhostNet of width 1.0: 5.2 million parameters with 1,000 classes. `width` multiplies all channels.

    TensorRT's scheme leaves layers of fewer than 16 channels in float: here some depthwise convolutions of early ghost modules.
    """
    if width <= 0:
        raise ModelError(f"ghostnet of width {width}; give a factor above 0, as 0.5")
    return GhostNet(width, num_classes, in_channels, small_images)
