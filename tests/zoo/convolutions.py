"""Convolutions of every form, and the blocks that are made of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.student import CHANNELS, Student, conv, conv_norm


class InvertedResidual(nn.Module):
    """MobileNetV2: expand, depthwise, project, with ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        wide = 2 * CHANNELS
        self.expand = nn.Sequential(conv(CHANNELS, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depthwise = nn.Sequential(
            conv(wide, wide, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)
        )
        self.project = nn.Sequential(conv(wide, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.project(self.depthwise(self.expand(x)))
        return found


class Bottleneck(nn.Module):
    """ResNet: the skip is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.path = nn.Sequential(
            conv_norm(kernel=1), conv_norm(stride=2), conv(CHANNELS, 32, 1, bias=False), nn.BatchNorm2d(32)
        )
        self.skip = nn.Sequential(nn.Conv2d(CHANNELS, 32, 1, 2, bias=False), nn.BatchNorm2d(32))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.path(x) + self.skip(x), inplace=True)


class PreActivation(nn.Module):
    """ResNet v2: the norm stands before the convolution, so that nothing absorbs it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)
        self.conv1, self.conv2 = conv(bias=False), conv(bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        found: Tensor = x + self.conv2(torch.relu(self.norm2(y)))
        return found


class Dense(nn.Module):
    """DenseNet: each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv_norm(CHANNELS * (1 + n), CHANNELS) for n in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.five = (conv_norm(kernel=kernel) for kernel in (1, 3, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm(kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


class Ghost(nn.Module):
    """GhostNet: half of the channels are cheap copies of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cheap = conv_norm(), conv_norm(groups=CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return torch.cat([y, self.cheap(y)], 1)


class Shuffle(nn.Module):
    """ShuffleNet: halves, a channel shuffle by views."""

    def __init__(self) -> None:
        super().__init__()
        self.path = nn.Sequential(conv_norm(8, 16, 1), conv(16, 8, groups=8), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        x = torch.cat([kept, self.path(changed)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class SqueezeExcite(nn.Module):
    def __init__(self, gate: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.gate, self.activation = conv_norm(), gate, activation
        self.squeeze, self.excite = conv(CHANNELS, CHANNELS, 1), conv(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        scale = F.adaptive_avg_pool2d(x, 1)
        found: Tensor = x * self.gate(self.excite(self.activation(self.squeeze(scale))))
        return found


class Attend(nn.Module):
    """CBAM: channels by mean and maximum, then places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mlp = conv_norm(), nn.Sequential(conv(kernel=1), nn.ReLU(), conv(kernel=1))
        self.place = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x * torch.sigmoid(self.mlp(x.mean((2, 3), keepdim=True)) + self.mlp(x.amax((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.place(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class RowsAsSequence(nn.Module):
    """Conv1d, its batch norm and its transpose on the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(CHANNELS, 32, 3, padding=1), nn.BatchNorm1d(32)
        self.up = nn.ConvTranspose1d(32, CHANNELS, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x.flatten(2))))
        return torch.relu(self.up(y)).unsqueeze(3)


class Volume(nn.Module):
    """Conv3d and BatchNorm3d: the channels as depth."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(4, CHANNELS, 3, padding=1), nn.BatchNorm3d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x.unflatten(1, (4, 4)))))
        return y.mean(2)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = conv_norm(CHANNELS, 32, stride=2), conv_norm(32, 32)
        self.up, self.out = nn.ConvTranspose2d(32, CHANNELS, 2, 2), conv_norm(32, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.bottom(self.down(x)))
        found: Tensor = self.out(torch.cat([x, y], 1))
        return found


class Pyramid(nn.Module):
    """A feature pyramid: the lower level is made larger by `mode` and added."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.down, self.lateral, self.out, self.options = conv_norm(stride=2), conv(kernel=1), conv_norm(), options

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.down(x), scale_factor=2, **self.options)  # type: ignore[arg-type]
        found: Tensor = self.out(self.lateral(x) + y)
        return found


class ToSizeOf(nn.Module):
    """Made as large as another tensor is: a size read where the model runs."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.out = conv_norm(stride=2), conv_norm()

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.down(x), size=x.shape[2:], mode="bilinear", align_corners=False)
        found: Tensor = self.out(x + y)
        return found


class ReparametrizedBlock(nn.Module):
    """RepVGG in training: a 3x3, a 1x1 and the input itself, each normed, summed before the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.three = nn.Sequential(conv(bias=False), nn.BatchNorm2d(CHANNELS))
        self.one, self.same = (
            nn.Sequential(conv(kernel=1, bias=False), nn.BatchNorm2d(CHANNELS)),
            nn.BatchNorm2d(CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.three(x) + self.one(x) + self.same(x))


def blocks(*of: nn.Module) -> Student:
    """A student of these modules, whose last one's width is found by a pass."""
    body = nn.Sequential(*of)
    with torch.no_grad():
        width = body.eval()(torch.zeros(1, CHANNELS, 8, 8)).shape[1]
    return Student(body, width)


STUDENTS = {
    "plain": lambda: blocks(conv_norm(), conv_norm(CHANNELS, 32, stride=2)),
    "convolution with a bias": lambda: blocks(conv(), nn.BatchNorm2d(CHANNELS), nn.ReLU()),
    "depthwise": lambda: blocks(conv_norm(groups=CHANNELS), conv_norm(kernel=1)),
    "grouped": lambda: blocks(conv_norm(groups=4), conv_norm(CHANNELS, 32, groups=2)),
    "dilated": lambda: blocks(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2), nn.ReLU()),
    "kernels of unequal sides": lambda: blocks(
        nn.Conv2d(CHANNELS, CHANNELS, (1, 3), padding=(0, 1)),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, (3, 1), (2, 1), (1, 0)),
        nn.ReLU(),
    ),
    "kernel of 7": lambda: blocks(conv_norm(kernel=7)),
    "padded as its input": lambda: blocks(nn.Conv2d(CHANNELS, CHANNELS, 4, padding="same"), nn.ReLU()),
    "padded by reflection": lambda: blocks(conv(padding_mode="reflect"), nn.ReLU()),
    "padded by repetition": lambda: blocks(conv(padding_mode="replicate"), nn.ReLU()),
    "padded around": lambda: blocks(conv(padding_mode="circular"), nn.ReLU()),
    "padded by a constant": lambda: blocks(nn.ConstantPad2d((1, 2, 0, 1), 0.5), nn.Conv2d(CHANNELS, CHANNELS, 3), nn.ReLU()),
    "transposed": lambda: blocks(nn.ConvTranspose2d(CHANNELS, 32, 2, 2), nn.BatchNorm2d(32), nn.ReLU()),
    "transposed with groups": lambda: blocks(
        nn.ConvTranspose2d(CHANNELS, 32, 2, 2, groups=4), nn.BatchNorm2d(32), nn.ReLU()
    ),
    "transposed with output padding": lambda: blocks(
        nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, 2, 1, output_padding=1, bias=False), nn.ReLU(), conv_norm()
    ),
    "rows as a sequence": lambda: blocks(RowsAsSequence()),
    "volume": lambda: blocks(Volume()),
    "inverted residual": lambda: blocks(InvertedResidual()),
    "bottleneck": lambda: blocks(Bottleneck()),
    "norm before the convolution": lambda: blocks(PreActivation(), nn.BatchNorm2d(CHANNELS), nn.ReLU()),
    "dense": lambda: blocks(Dense()),
    "inception": lambda: blocks(Inception()),
    "ghost": lambda: blocks(Ghost()),
    "shuffle": lambda: blocks(Shuffle()),
    "torch's own shuffle": lambda: blocks(conv_norm(groups=4), nn.ChannelShuffle(4), conv_norm(groups=4)),
    "squeeze and excite": lambda: blocks(SqueezeExcite(nn.Sigmoid(), nn.SiLU())),
    "squeeze and excite of mobile networks": lambda: blocks(SqueezeExcite(nn.Hardsigmoid(), nn.ReLU())),
    "channels and places": lambda: blocks(Attend()),
    "u-net": lambda: blocks(UNet()),
    "three branches in one sum": lambda: blocks(ReparametrizedBlock()),
    "pixel shuffle": lambda: blocks(conv_norm(CHANNELS, 64), nn.PixelShuffle(2), conv_norm()),
    "pixel unshuffle": lambda: blocks(nn.PixelUnshuffle(2), conv_norm(64, CHANNELS)),
    "larger by repetition": lambda: blocks(Pyramid(mode="nearest")),
    "larger by exact repetition": lambda: blocks(Pyramid(mode="nearest-exact")),
    "larger bilinear": lambda: blocks(Pyramid(mode="bilinear", align_corners=False)),
    "larger bilinear between corners": lambda: blocks(Pyramid(mode="bilinear", align_corners=True)),
    "larger bicubic": lambda: blocks(Pyramid(mode="bicubic", align_corners=False)),
    "larger by area": lambda: blocks(Pyramid(mode="area")),
    "as large as another": lambda: blocks(ToSizeOf()),
    "smaller bilinear": lambda: blocks(
        conv_norm(), nn.Upsample(scale_factor=0.5, mode="bilinear", align_corners=False), conv_norm()
    ),
    "max pool of odd edges": lambda: blocks(conv_norm(), nn.MaxPool2d(3, 2, ceil_mode=True), conv_norm()),
    "max pool dilated": lambda: blocks(conv_norm(), nn.MaxPool2d(2, 1, dilation=2), conv_norm()),
    "average pool without padding": lambda: blocks(
        conv_norm(), nn.AvgPool2d(3, 2, 1, count_include_pad=False), conv_norm()
    ),
    "adaptive average pool": lambda: blocks(conv_norm(), nn.AdaptiveAvgPool2d(2), conv_norm(kernel=1)),
    "adaptive max pool": lambda: blocks(conv_norm(), nn.AdaptiveMaxPool2d(2), conv(kernel=1), nn.ReLU()),
    "power pool": lambda: blocks(conv_norm(), nn.LPPool2d(2, 2), conv_norm()),
}  # fmt: skip
