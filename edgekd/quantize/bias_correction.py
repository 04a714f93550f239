"""correct_bias: quantization must not shift a layer's mean (Nagel et al. 2019, 1906.04721, section 4.2, appendix D)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def correct_bias(bias: Tensor, in_float: Sequence[Tensor], quantized: Sequence[Tensor]) -> None:
    """Subtracts `E[ỹ] - E[y]` of each channel from the bias; outputs `[batch, channels, ...]`, or `[..., channels]` of a
    linear layer, in batches.
    """
    pairs = zip(in_float, quantized, strict=True)
    shift = torch.stack([(y_q - y).double().sum(_others(y, bias)) for y, y_q in pairs]).sum(0)
    number = sum(y.numel() for y in in_float) / len(bias)
    bias.sub_((shift / number).to(bias.dtype))


def _others(y: Tensor, bias: Tensor) -> list[int]:
    """All axes but the channels', which are the second of maps and the last of vectors."""
    channels = 1 if y.dim() > 3 or y.shape[-1] != len(bias) else y.dim() - 1
    return [axis for axis in range(y.dim()) if axis != channels]
