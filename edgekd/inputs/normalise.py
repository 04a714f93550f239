"""Normalise: turns bytes of images into a network's input, in the training loop and in the exported graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Turns images of bytes into a network's input: `(x / 255 - mean) / std` of each channel.

    `mean` and `std` hold a figure for each channel, of values in 0..1. The loop, the exported graph and run.py compute the
    same bits. All three use `x * scale + shift`, and both constants are computed in float64 and rounded once.
    """

    # Product and sum are two operators on purpose. Each rounds to the nearest float32, in torch, numpy and onnxruntime
    # alike, so the results are equal. torch.addcmul is one operator and skips the first rounding on processors with FMA:
    # half of its values differ from the graph's. `(x / 255 - mean) / std` would be equal everywhere too, but takes three
    # operators, two of them divisions.

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale = [1 / (255 * each) for each in std]
        shift = [-middle / each for middle, each in zip(mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The network's input float32 `[n, channels, h, w]` from uint8 images `[n, h, w, channels]`.

        The values keep their order in memory, so the result is `channels_last`. oneDNN's convolutions and GPUs prefer that.
        """
        # Cast first: in TensorRT a uint8 input can be read by Cast alone.
        return self.normalised(images.float().permute(0, 3, 1, 2))

    def normalised(self, planes: Tensor) -> Tensor:
        """The formula on floats in 0..255, `[n, channels, h, w]`. Gradients pass through it."""
        if torch.compiler.is_exporting():
            return planes * self.scale + self.shift
        # The same two operators, with the constants repeated for each pixel of a row. In channels_last memory torch would
        # otherwise restart its loop at each pixel, which takes four times as long. In place, because memory takes time too.
        scale, shift = (
            each.expand(1, -1, 1, planes.shape[3]).contiguous(memory_format=torch.channels_last)
            for each in (self.scale, self.shift)
        )
        return (planes * scale).add_(shift)

    def to_bytes(self, planes: Tensor) -> Tensor:
        """The images uint8 `[n, h, w, channels]` whose normalised values are nearest to `planes`."""
        pixels = ((planes - self.shift) / self.scale).round().clamp(0, 255)
        return pixels.byte().permute(0, 2, 3, 1).contiguous()


def per_channel(figures: Sequence[float], channels: int) -> tuple[float, ...]:
    """The figures for each channel: a single figure is repeated for all channels."""
    return tuple(float(figure) for figure in np.broadcast_to(figures, channels))
