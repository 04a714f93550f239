"""Gradient reversal (Ganin & Lempitsky 2015, 1409.7495): one optimizer trains two sides with opposite aims."""

from __future__ import annotations

from torch import Tensor


def reversed_gradient(x: Tensor, lambda_: float = 1.0) -> Tensor:
    """The tensor x, with its gradient multiplied by −λ in the backward pass."""
    return x.detach() - lambda_ * (x - x.detach())
