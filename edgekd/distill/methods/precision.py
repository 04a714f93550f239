"""Precision of losses: float32 also under autocast. float64 stays float64, so that gradients can be checked."""

from __future__ import annotations

import torch
from torch import Tensor


def full(x: Tensor) -> Tensor:
    """The tensor in float32 or float64, with its gradient."""
    return x if x.dtype == torch.float64 else x.float()


def taught(x: Tensor) -> Tensor:
    """The teacher's side of a loss in float32 or float64, without a gradient to the teacher."""
    return full(x.detach())
