"""Normalise: it turns bytes of images into a network's input, in the training loop and inside the exported graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """It turns images of bytes into what a network reads: `(x / 255 - mean) / std` of each channel.

    `mean` and `std` hold one figure a channel, of values in 0..1. The loop, the exported graph and run.py compute the same
    bits, for they share the formula `x * scale + shift`, whose two constants are computed in float64 and rounded once.
    """

    # Product and sum are two operators on purpose. Each rounds to the nearest float32, in torch, numpy and onnxruntime alike,
    # so that nothing is left to differ. torch.addcmul computes both in one operator, and leaves out the first rounding on
    # processors with FMA: half of the values are then other ones than the graph's. `(x / 255 - mean) / std` would be as equal,
    # but takes three operators, two of them divisions.

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale = [1 / (255 * each) for each in std]
        shift = [-middle / each for middle, each in zip(mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """It gives float32 `[n, channels, h, w]` of uint8 images `[n, h, w, channels]`.

        The values keep their order in memory, so that the result is `channels_last`, which oneDNN's convolutions and GPUs
        prefer.
        """
        # Cast first: uint8 is an input's type in TensorRT, and no operator but Cast reads it.
        return self.normalised(images.float().permute(0, 3, 1, 2))

    def normalised(self, planes: Tensor) -> Tensor:
        """It computes the formula on floats in 0..255, `[n, channels, h, w]`; gradients pass through it."""
        if torch.compiler.is_exporting():
            return planes * self.scale + self.shift
        # The same two operators, but with the figures once for each pixel of a row: where the channels lie side by side torch
        # would otherwise begin anew behind each pixel, which takes four times as long. In place, for memory takes time too.
        scale, shift = (
            each.expand(1, -1, 1, planes.shape[3]).contiguous(memory_format=torch.channels_last)
            for each in (self.scale, self.shift)
        )
        return (planes * scale).add_(shift)

    def to_bytes(self, planes: Tensor) -> Tensor:
        """It gives the images, uint8 `[n, h, w, channels]`, whose normalised values are nearest to `planes`."""
        pixels = ((planes - self.shift) / self.scale).round().clamp(0, 255)
        return pixels.byte().permute(0, 2, 3, 1).contiguous()


def per_channel(figures: Sequence[float], channels: int) -> tuple[float, ...]:
    """It repeats one figure for all channels; as many figures as channels stay as they are."""
    return tuple(float(figure) for figure in np.broadcast_to(figures, channels))
