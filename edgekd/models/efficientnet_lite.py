"""EfficientNet-Lite0 (Liu 2020; EfficientNet: Tan & Le 2019, 1905.11946): ReLU6, and no squeeze-and-excitation."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

# efficientnet_lite_builder.py of tensorflow/tpu: repeats, kernel, stride, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
STEM, HEAD = 32, 1280


class Separable(nn.Module):
    """The first block: filter each channel, project; its shape changes, so that there is no skip."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _conv(c_in, c_in, kernel, stride, c_in)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv_pw = _conv(c_in, c_out, 1)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv_dw(x)))
        return cast(Tensor, self.bn2(self.conv_pw(y)))


class InvertedResidual(nn.Module):
    """The inverted residual block of MobileNetV2: expand, filter each channel, project; a skip if the shape stays."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        self.conv_pw = _conv(c_in, wide, 1)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv_dw = _conv(wide, wide, kernel, stride, wide)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv_pwl = _conv(wide, c_out, 1)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.act = nn.ReLU6()
        self.has_skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv_pw(x)))
        y = self.act(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return cast(Tensor, x + y if self.has_skip else y)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite: images `[batch, in_channels, h, w]` to logits `[batch, num_classes]`. Parameters as timm's `efficientnet_lite0`.

    With `small_images` the stem and the first strided stage keep the resolution: the last map is an eighth of the image.
    Without it the strides are the authors', and the last map is a 32nd. The authors train with dropout; here there is none.
    """

    def __init__(self, num_classes: int, in_channels: int, small_images: bool) -> None:
        super().__init__()
        self.conv_stem = _conv(in_channels, STEM, 3, 1 if small_images else 2)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.blocks, c_in = nn.Sequential(), STEM
        for number, (repeats, kernel, stride, expansion, c_out) in enumerate(STAGES):
            first, stage = 1 if small_images and number == 1 else stride, nn.Sequential()
            for block in range(repeats):
                step = 1 if block else first
                stage.append(
                    InvertedResidual(c_in, c_out, kernel, step, expansion)
                    if expansion > 1
                    else Separable(c_in, c_out, kernel, step)
                )
                c_in = c_out
            self.blocks.append(stage)
        self.conv_head = _conv(c_in, HEAD, 1)
        self.bn2 = nn.BatchNorm2d(HEAD)
        self.act, self.pool = nn.ReLU6(), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        x = self.act(self.bn2(self.conv_head(x)))
        return cast(Tensor, self.classifier(self.pool(x).flatten(1)))


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def efficientnet_lite0(num_classes: int = 10, in_channels: int = 3, small_images: bool = False) -> EfficientNetLite:
    """EfficientNet-Lite0: 4.65 million parameters with 1,000 classes.

    Weights converted from TensorFlow (timm's `tf_efficientnet_lite0`) pad strided layers on one side and have another
    epsilon: they load here, but compute something else.
    """
    return EfficientNetLite(num_classes, in_channels, small_images)
