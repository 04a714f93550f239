"""BC-ResNet: a network for keyword spotting with broadcasted residuals (Kim et al. 2021, 2106.04140)."""

from __future__ import annotations

import torch
from torch import nn

BANDS = 5  # sub-bands that are normalised apart


class SubSpectralNorm(nn.Module):
    """BatchNorm of each of five sub-bands by itself, `[batch, channels, bands, frames]` (Chang et al. 2021, 2103.13620)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels * BANDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, channels, bands, frames = x.shape
        # Not a branch: torch.fx, which traces a student for its first weights, takes none.
        torch._assert(bands % BANDS == 0, f"{BANDS} sub-bands do not part these bands; give 40 of them, or a multiple")  # type: ignore[no-untyped-call]
        y: torch.Tensor = self.bn(x.reshape(-1, channels * BANDS, bands // BANDS, frames))
        return y.reshape(-1, channels, bands, frames)


class BroadcastBlock(nn.Module):
    """The paper's block: a residual over bands and frames, and one over frames alone that is broadcast over the bands.

    Where the channels change it is a transition block, without the skip. dilation: of the convolution over frames.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.has_skip = c_in == c_out
        change = [] if self.has_skip else [nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
        self.f2 = nn.Sequential(
            *change,
            nn.Conv2d(c_out, c_out, (3, 1), (stride, 1), padding=(1, 0), groups=c_out, bias=False),
            SubSpectralNorm(c_out),
        )
        self.f1 = nn.Sequential(
            nn.Conv2d(c_out, c_out, (1, 3), padding=(0, dilation), dilation=(1, dilation), groups=c_out, bias=False),
            nn.BatchNorm2d(c_out),
            nn.SiLU(),
            nn.Conv2d(c_out, c_out, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.f2(x)
        out: torch.Tensor = y + self.f1(y.mean(2, keepdim=True))
        return torch.relu(x + out if self.has_skip else out)


class BCResNet(nn.Module):
    """BC-ResNet: spectrograms `[batch, in_channels, 40, frames]` to logits `[batch, num_classes]`.

    Other numbers of bands are possible if they are multiples of 40. width: the channels of the first stage, 8 times the
    number in the paper's names.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        widths, last = (width, width * 3 // 2, width * 2, width * 5 // 2), width * 4
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 2 * width, 5, (2, 1), padding=2, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        c_in = 2 * width
        for stage, (c_out, repeats) in enumerate(zip(widths, (2, 2, 4, 4), strict=True)):
            for number in range(repeats):
                stride = 2 if stage in (1, 2) and number == 0 else 1
                blocks.append(BroadcastBlock(c_in, c_out, stride, 2**stage))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Conv2d(c_in, c_in, 5, padding=(0, 2), groups=c_in, bias=False),
            nn.Conv2d(c_in, last, 1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1))
        return logits


def bc_resnet(num_classes: int = 12, in_channels: int = 1, width: int = 8) -> BCResNet:
    """BC-ResNet-1, the paper's smallest: 9.2 thousand parameters with 12 classes. The paper trains with dropout; here there is none."""
    return BCResNet(num_classes, in_channels, width)
