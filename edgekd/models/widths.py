"""multiple_of: the numbers of channels of mobile networks, rounded as their authors round them."""

from __future__ import annotations


def multiple_of(divisor: int, channels: float) -> int:
    """The number of channels as a multiple of `divisor`, at most 10 % down (`_make_divisible` of MobileNet's authors)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
