"""U-Net: a network for segmentation (Ronneberger, Fischer & Brox 2015, 1505.04597), with BatchNorm and padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgekd.errors import ModelError


@torch.fx.wrap  # torch.fx, which cuts a student in two, takes no branch on sizes
def halvable(x: torch.Tensor, times: int) -> torch.Tensor:
    """The images `[batch, channels, h, w]`. Raises ModelError if h or w cannot be halved `times` times."""
    height, width = x.shape[2:]
    if height % 2**times or width % 2**times:
        raise ModelError(
            f"unet halves its images {times} times, and {height} x {width} is no multiple of {2**times}; resize them "
            f"(data.size) to {_next(height, times)} x {_next(width, times)}, or give another depth"
        )
    return x


class Up(nn.Module):
    """A step up: the deep map doubled by a 2x2 transposed convolution, joined with the skip, and two convolutions.

    The transposed convolution is the paper's. Its windows do not overlap, and it has 4 % of the multiplications. TensorRT
    and QNN compute it in int8, and onnxruntime on a CPU as a 1x1 convolution (edgekd.quantize.capture). A Resize in its
    place has an int8 rule on QNN alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.body = _twice(2 * width, width)

    def forward(self, deep: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(torch.cat([self.grow(deep), skip], 1))
        return y


class UNet(nn.Module):
    """U-Net: images `[batch, in_channels, h, w]` to maps of logits `[batch, num_classes, h, w]`.

    With several numbers of classes the first is that of the maps. Each other has logits `[batch, classes]` of the whole
    image, from the mean of the deepest maps; the answer is a tuple.
    h and w are multiples of `2**depth`. width: the channels at full resolution; they double at each of `depth` halvings.
    The convolutions are padded, unlike the paper's, so that the maps have the size of the images. There is no dropout.
    First weights come by `copy`; `slice` and the others know no transposed convolution.
    """

    def __init__(self, num_classes: int | Sequence[int], in_channels: int, width: int, depth: int) -> None:
        super().__init__()
        first, *others = [num_classes] if isinstance(num_classes, int) else num_classes
        self.depth = depth
        widths = [width * 2**i for i in range(depth)]
        inputs = [in_channels, *widths[:-1]]
        self.down = nn.ModuleList(_twice(c_in, c_out) for c_in, c_out in zip(inputs, widths, strict=True))
        self.pool = nn.ModuleList(nn.MaxPool2d(2) for _ in widths)
        self.bottom = _twice(widths[-1], 2 * widths[-1])
        self.up = nn.ModuleList(Up(c_out) for c_out in reversed(widths))
        self.head = nn.Conv2d(width, first, 1)
        self.others = nn.ModuleList(nn.Linear(2 * widths[-1], number) for number in others)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        x = halvable(x, self.depth)
        skips = []
        for body, pool in zip(self.down, self.pool, strict=True):
            skips.append(body(x))
            x = pool(skips[-1])
        x = self.bottom(x)
        whole = x.mean((2, 3)) if self.others else x
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip)
        logits: torch.Tensor = self.head(x)
        return (logits, *(other(whole) for other in self.others)) if self.others else logits


def _twice(c_in: int, c_out: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for before in (c_in, c_out):
        layers += [nn.Conv2d(before, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*layers)


def _next(size: int, times: int) -> int:
    multiple: int = 2**times
    return -(-size // multiple) * multiple


def unet(num_classes: int | Sequence[int] = 2, in_channels: int = 3, width: int = 8, depth: int = 3) -> UNet:
    """U-Net of width 8 and depth 3: 0.12 million parameters with 2 classes. The paper's has width 64 and depth 4.

    TensorRT's scheme leaves layers of fewer than 16 channels in float: at width 8 four of full resolution, at width 16 none.
    """
    if width < 1 or depth < 1:
        raise ModelError(f"unet of width {width} and depth {depth}; give at least 1 of each")
    return UNet(num_classes, in_channels, width, depth)
