"""correct_bias: keeps a layer's mean under quantization (Nagel et al. 2019, 1906.04721, section 4.2, appendix D)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def correct_bias(bias: Tensor, in_float: Sequence[Tensor], quantized: Sequence[Tensor], channels: int) -> None:
    """Subtracts `E[ỹ] - E[y]` of each channel from the bias.

    in_float, quantized: the outputs y and ỹ in batches. channels: the outputs' channel axis. The axis is 1 for a
    convolution of any kind and -1 for a linear layer.
    """
    pairs = zip(in_float, quantized, strict=True)
    shift = torch.stack([(y_q - y).double().sum(_others(y, channels)) for y, y_q in pairs]).sum(0)
    number = sum(y.numel() for y in in_float) / len(bias)
    bias.sub_((shift / number).to(bias.dtype))


def _others(y: Tensor, channels: int) -> list[int]:
    return [axis for axis in range(y.dim()) if axis != channels % y.dim()]
