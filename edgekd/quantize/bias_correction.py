"""correct_bias: quantization must not shift a layer's mean (Nagel et al. 2019, 1906.04721, section 4.2, appendix D)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def correct_bias(bias: Tensor, in_float: Sequence[Tensor], quantized: Sequence[Tensor], channels: int) -> None:
    """Subtracts `E[ỹ] - E[y]` of each channel from the bias; `channels` is the axis of the outputs, given in batches, that
    holds them: 1 of a convolution, be it transposed, in any number of dimensions, -1 of a linear layer.
    """
    pairs = zip(in_float, quantized, strict=True)
    shift = torch.stack([(y_q - y).double().sum(_others(y, channels)) for y, y_q in pairs]).sum(0)
    number = sum(y.numel() for y in in_float) / len(bias)
    bias.sub_((shift / number).to(bias.dtype))


def _others(y: Tensor, channels: int) -> list[int]:
    return [axis for axis in range(y.dim()) if axis != channels % y.dim()]
