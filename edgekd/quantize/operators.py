"""The operators with a weight, by torch's names, and the axis of the weight with the output channels."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

CONVOLUTIONS: dict[Any, int] = {
    aten.conv1d.default: 0,
    aten.conv1d.padding: 0,
    aten.conv2d.default: 0,
    aten.conv2d.padding: 0,
    aten.conv3d.default: 0,
    aten.conv3d.padding: 0,
}
LAYERS = (*CONVOLUTIONS, aten.linear.default)
"""Operators with a weight, output channels first, and a bias, their third argument or None.

The bias ships in steps of the integer accumulator.
"""
TRANSPOSED: dict[Any, int] = {
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 1,
    aten.conv_transpose3d.input: 1,
}
FILLS = (
    aten.fill.Scalar, aten.fill.Tensor, aten.full_like.default, aten.zeros_like.default, aten.ones_like.default,
    aten.empty_like.default, aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default,
)  # fmt: skip
"""Operators that take the shape of their first argument, not its values."""
WITH_WEIGHTS: dict[Any, int] = {**CONVOLUTIONS, **TRANSPOSED, aten.linear.default: 0}
