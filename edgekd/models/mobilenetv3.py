"""MobileNetV3, small and large (Howard et al. 2019, 1905.02244): hard-swish, and squeeze-and-excitation in some blocks."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.models.widths import multiple_of


class Row(NamedTuple):
    """A row of the paper's tables 1 and 2: kernel, channels between and behind, SE, hard-swish, stride."""

    kernel: int
    wide: int
    c_out: int
    excite: bool
    hard_swish: bool
    stride: int


LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2), Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2), Row(5, 120, 40, True, False, 1), Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2), Row(3, 200, 80, False, True, 1), Row(3, 184, 80, False, True, 1), Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1), Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2), Row(5, 960, 160, True, True, 1), Row(5, 960, 160, True, True, 1),
)  # fmt: skip
SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2), Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2), Row(5, 240, 40, True, True, 1), Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1), Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2), Row(5, 576, 96, True, True, 1), Row(5, 576, 96, True, True, 1),
)  # fmt: skip
EPS = 1e-3  # of torchvision's BatchNorms, so that its weights compute the same here


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (section 5.3): each channel of `[batch, channels, h, w]` times a factor in 0..1 from their means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        factors: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return factors * x


class Block(nn.Module):
    """The block of figure 4: expand, filter each channel, weigh the channels, project; a skip if the shape stays."""

    def __init__(self, row: Row, c_in: int, wide: int, c_out: int, stride: int) -> None:
        super().__init__()
        activation = nn.Hardswish if row.hard_swish else nn.ReLU
        self.block = nn.Sequential(
            *([_conv(c_in, wide, 1, 1, 1, activation)] if wide != c_in else []),
            _conv(wide, wide, row.kernel, stride, wide, activation),
            *([SqueezeExcite(wide, multiple_of(8, wide // 4))] if row.excite else []),
            _conv(wide, c_out, 1, 1, 1, None),
        )
        self.has_skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.has_skip else y


class MobileNetV3(nn.Module):
    """MobileNetV3: images `[batch, in_channels, h, w]` to logits `[batch, num_classes]`. Parameters are named as torchvision's.

    With `small_images` the stem and the first strided block keep the resolution: the last map is an eighth of the image.
    Without it the strides are the paper's, and the last map is a 32nd. The paper trains with dropout; here there is none.
    BatchNorm averages with torch's momentum, because the paper's 0.01 is too slow for a short training.
    """

    def __init__(
        self, rows: tuple[Row, ...], last: int, width: float, num_classes: int, in_channels: int, small_images: bool
    ) -> None:
        super().__init__()
        c_in = multiple_of(8, 16 * width)
        layers: list[nn.Module] = [_conv(in_channels, c_in, 3, 1 if small_images else 2, 1, nn.Hardswish)]
        kept = next(row for row in rows if row.stride == 2) if small_images else None
        for row in rows:
            wide, c_out = multiple_of(8, row.wide * width), multiple_of(8, row.c_out * width)
            layers.append(Block(row, c_in, wide, c_out, 1 if row is kept else row.stride))
            c_in = c_out
        layers.append(_conv(c_in, 6 * c_in, 1, 1, 1, nn.Hardswish))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        hidden = multiple_of(8, last * width)
        # The third place is torchvision's dropout.
        self.classifier = nn.Sequential(
            nn.Linear(6 * c_in, hidden), nn.Hardswish(), nn.Identity(), nn.Linear(hidden, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.avgpool(self.features(x)).flatten(1)))


def _conv(
    c_in: int, c_out: int, kernel: int, stride: int, groups: int, activation: type[nn.Module] | None
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)]
    layers.append(nn.BatchNorm2d(c_out, eps=EPS))
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


def mobilenetv3_small(
    num_classes: int = 10, in_channels: int = 3, small_images: bool = False, width: float = 1.0
) -> MobileNetV3:
    """MobileNetV3-Small: 2.5 million parameters with 1,000 classes. `width` multiplies all channels."""
    return _of_width(SMALL, 1024, width, num_classes, in_channels, small_images)


def mobilenetv3_large(
    num_classes: int = 10, in_channels: int = 3, small_images: bool = False, width: float = 1.0
) -> MobileNetV3:
    """MobileNetV3-Large: 5.5 million parameters with 1,000 classes. `width` multiplies all channels."""
    return _of_width(LARGE, 1280, width, num_classes, in_channels, small_images)


def _of_width(
    rows: tuple[Row, ...], last: int, width: float, num_classes: int, in_channels: int, small_images: bool
) -> MobileNetV3:
    if width <= 0:
        raise ModelError(f"mobilenetv3 of width {width}; give a factor above 0, as 0.75")
    return MobileNetV3(rows, last, width, num_classes, in_channels, small_images)
