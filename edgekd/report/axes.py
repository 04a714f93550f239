"""Axis: a scale of a drawing, and its ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

TEXT = 40  # pixels that a tick's text needs, with its distance to the next


@dataclass(frozen=True)
class Axis:
    """A scale that maps values to pixels. `ticks`: pairs (pixel, text)."""

    low: float
    high: float
    start_px: float
    end_px: float
    logarithmic: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(self.start_px + share * (self.end_px - self.start_px), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        values = self._log_ticks() if self.logarithmic else linear_ticks(self.low, self.high)
        if self.whole:  # an epoch has no fraction
            values = [value for value in values if value == round(value)]
        return [(self(value), f"{value:g}") for value in values]

    def _log_ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten if their texts have room, else powers of ten, else some of these."""
        found = log_ticks(self.low, self.high)
        decades = math.log10(self.high / self.low)
        room = abs(self.end_px - self.start_px) / decades if decades else math.inf  # pixels of a decade
        powers = [value for value in found if math.isclose(math.log10(value), round(math.log10(value)), abs_tol=1e-9)]
        if room >= 4 * TEXT or len(powers) < 2:
            return found
        return powers[:: max(1, math.ceil(TEXT / room))]


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """The multiples of 1, 2 or 5 times a power of ten within the range, about `about` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """The numbers 1, 2 and 5 times powers of ten within the range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [v for p in powers for v in (10.0**p, 2 * 10.0**p, 5 * 10.0**p) if low <= v <= high]
