"""Small networks with what quantization must keep right, and samples for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import edgekd.quantize  # noqa: F401  # its import registers the operators of `QUANTIZE`


class Block(nn.Module):
    """Two convolutions with a skip of in-place additions and ReLUs, a pool and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(x))
        y += x
        return self.fc(self.pool(self.relu(y)).flatten(1))


def seeded(model: nn.Module) -> nn.Module:
    """`model` with random BatchNorms, so that folding them wrongly shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values)
    return model.eval()


def images(n: int = 16) -> Tensor:
    return torch.randn(n, 3, 8, 8)


class MobileBlock(nn.Module):
    """What mobile networks are made of: depthwise convolution, squeeze-and-excitation, SiLU, ReLU6, hard-swish, a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 1)
        self.depthwise, self.project = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 8, 1)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head, self.fc = nn.Conv2d(8, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.stem(x))
        y = nn.functional.relu6(self.depthwise(nn.functional.silu(self.expand(x), inplace=True)))
        gate = torch.sigmoid(self.excite(nn.functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project(y * gate)
        return self.fc(nn.functional.hardswish(self.head(x)).mean((2, 3)))


QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
