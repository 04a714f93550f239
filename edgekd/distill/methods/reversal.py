"""Gradient reversal (Ganin & Lempitsky 2015, 1409.7495): one optimizer trains two sides that want the opposite."""

from __future__ import annotations

from torch import Tensor


def reversed_gradient(x: Tensor, lambda_: float = 1.0) -> Tensor:
    """x itself, whose gradient is multiplied by −λ on the way back."""
    return x.detach() - lambda_ * (x - x.detach())
