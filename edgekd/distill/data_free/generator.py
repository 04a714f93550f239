"""The image generator of data-free distillation: `Generator`."""

from __future__ import annotations

from torch import Tensor, nn


class Generator(nn.Module):
    """DAFL's generator (Chen et al. 2019, 1904.01186): noise `[batch, z]` to pixels in 0..1, `[batch, channels, h, w]`.

    The network ends in a sigmoid, so that all values are possible pixels. The paper's network ends in tanh and BatchNorm,
    whose values leave that range. Sizes that 4 does not divide start rounded up.
    """

    def __init__(self, z: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, channels = image_shape
        self.start = (-(-height // 4), -(-width // 4))
        self.fc = nn.Linear(z, 128 * self.start[0] * self.start[1])
        self.body = nn.Sequential(
            nn.BatchNorm2d(128),
            nn.Upsample((-(-height // 2), -(-width // 2))),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(0.2),
            nn.Upsample((height, width)),
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        pixels: Tensor = self.body(self.fc(z).view(len(z), 128, *self.start))
        return pixels
