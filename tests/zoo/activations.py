"""Activations and norms: what stands between layers, one student each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.convolutions import blocks
from tests.zoo.student import CHANNELS, conv, conv_norm


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.function(x)  # type: ignore[operator]
        return found


class ChannelsLast(nn.Module):
    """ConvNeXt: depthwise, LayerNorm and two linear layers on channels-last, a scale of each channel, a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = conv(kernel=7, groups=CHANNELS), nn.LayerNorm(CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, 64), nn.Linear(64, CHANNELS)
        self.scale = nn.Parameter(torch.full((CHANNELS,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        found: Tensor = x + y.permute(0, 3, 1, 2)
        return found


class LinearNorm(nn.Module):
    """A linear layer writes the last axis; BatchNorm1d of `[n, C, L]` reads axis 1."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(64, outputs), nn.BatchNorm1d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(x.flatten(2)))).unsqueeze(3)


class DenseNorm(nn.Module):
    """A linear layer on vectors and its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(CHANNELS * 64, 32), nn.BatchNorm1d(32)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(x.flatten(1))))[:, :, None, None]


class Gated(nn.Module):
    """GLU by halves of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(CHANNELS, 2 * CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.conv(x), 1)


class RootMeanSquareNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.RMSNorm(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x).movedim(1, -1)).movedim(-1, 1))


class GeneralizedMean(nn.Module):
    """GeM: the p-th root of the mean of p-th powers, p learned."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3), keepdim=True).pow(1 / self.p)


def activated(activation: nn.Module) -> object:
    return lambda: blocks(conv(bias=True), activation, conv(), nn.ReLU())


def normed(norm: object) -> object:
    return lambda: blocks(conv(), norm(), nn.ReLU(), conv(), nn.ReLU())  # type: ignore[operator]


STUDENTS = {
    "prelu": activated(nn.PReLU(CHANNELS)),
    "prelu of one slope": activated(nn.PReLU()),
    "leaky relu": activated(nn.LeakyReLU(0.1)),
    "relu6 in place": activated(nn.ReLU6(inplace=True)),
    "elu": activated(nn.ELU()),
    "selu": activated(nn.SELU()),
    "celu": activated(nn.CELU(0.5)),
    "gelu": activated(nn.GELU()),
    "gelu by tanh": activated(nn.GELU("tanh")),
    "silu in place": activated(nn.SiLU(inplace=True)),
    "mish": activated(nn.Mish()),
    "hardswish in place": activated(nn.Hardswish(inplace=True)),
    "hardtanh": activated(nn.Hardtanh(-2, 3)),
    "softplus": activated(nn.Softplus()),
    "softsign": activated(nn.Softsign()),
    "tanh": activated(nn.Tanh()),
    "log sigmoid": activated(nn.LogSigmoid()),
    "clamp of one side": activated(Of(lambda x: x.clamp(min=-0.5))),
    "threshold": activated(nn.Threshold(0.1, 0.0)),
    "softmax of channels": activated(nn.Softmax(1)),
    "maximum of halves": lambda: blocks(
        conv(CHANNELS, 32), Of(lambda x: torch.maximum(*x.chunk(2, 1))), conv(), nn.ReLU()
    ),
    "gated": lambda: blocks(Gated(), conv(), nn.ReLU()),
    "squared relu": activated(Of(lambda x: torch.relu(x).square())),
    "group norm": normed(lambda: nn.GroupNorm(4, CHANNELS)),
    "instance norm": normed(lambda: nn.InstanceNorm2d(CHANNELS, affine=True)),
    "layer norm of the map": normed(lambda: nn.LayerNorm([CHANNELS, 8, 8])),
    "local response norm": normed(lambda: nn.LocalResponseNorm(3)),
    "batch norm without scale": normed(lambda: nn.BatchNorm2d(CHANNELS, affine=False)),
    "batch norm of a small eps": normed(lambda: nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.01)),
    "root mean square norm": lambda: blocks(RootMeanSquareNorm(), conv_norm()),
    "channels last": lambda: blocks(ChannelsLast(), ChannelsLast()),
    "linear norm of rows": lambda: blocks(LinearNorm(CHANNELS)),
    "linear norm of longer rows": lambda: blocks(LinearNorm(24)),
    "linear norm of vectors": lambda: blocks(DenseNorm()),
    "generalized mean": lambda: blocks(conv_norm(), GeneralizedMean()),
    "dropout": lambda: blocks(conv_norm(), nn.Dropout2d(0.3), conv_norm(), nn.AlphaDropout(0.1)),
}
