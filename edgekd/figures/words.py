"""Figures in words, the same in every report: milliseconds, megabytes, accuracies and origins."""

from __future__ import annotations

import math

from edgekd.figures.candidate import Latency, Score

NOT_MEASURED = "not measured"


def with_interval(score: Score) -> str:
    return f"{figure(score.value, score.unit)} ±{figure((score.high - score.low) / 2, score.unit)}"


def figure(value: float, unit: str) -> str:
    """A score in digits: percents with two decimals, other figures with three significant digits."""
    if unit == "%":
        return f"{value:.2f}"
    return milliseconds(value) if value >= 0 else f"-{milliseconds(-value)}"


def metric_in(score: Score) -> str:
    """The metric with its unit, as a column's heading: 'top-1 %'."""
    return f"{score.metric} {score.unit}".strip()


def valued(value: float, unit: str) -> str:
    """A value with its unit: '84.20 %', '3.10'."""
    return f"{figure(value, unit)} {unit}".strip()


def latency_cells(latency: Latency | None) -> tuple[str, str]:
    if latency is None:
        return NOT_MEASURED, "-"
    mark = "" if latency.stable else " ~"
    return milliseconds(latency.p50_ms) + mark, milliseconds(latency.p90_ms)


def milliseconds(value: float) -> str:
    """Three significant digits without an exponent: 0.410, 5.00, 1234."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(digits, 0)}f}"


def megabytes(size_mb: float | None) -> str:
    return "-" if size_mb is None else f"{size_mb:.2f}"


def origins(score: Score, latency: Latency | None) -> str:
    """The origin of both figures in one word if they share it, else both origins."""
    if latency is None or latency.origin == score.origin:
        return score.origin
    return f"{score.origin}, ms: {latency.origin}"


def begun(text: str) -> str:
    """The text as a sentence begins: 'top-1' as 'Top-1'. A word with a later capital stays, as 'mAP' and 'MAE'."""
    first = text.partition(" ")[0]
    return text if first[1:] != first[1:].lower() else text[:1].upper() + text[1:]


def signed(points: float, unit: str = "%") -> str:
    """'+0.56' better, '-2.00' worse, '0.00' no difference."""
    shown = figure(points, unit)
    return shown.removeprefix("-") if not float(shown) else shown if points < 0 else f"+{shown}"


def beside(drop: float, unit: str = "%") -> str:
    """The distance of a score from another, in words with the direction: '1.50 points worse'. drop: above 0 is worse."""
    amount = f"{figure(abs(drop), unit)} {'points' if unit == '%' else unit}".strip()
    return f"{amount} {'better' if drop < 0 else 'worse'}"


def between(low: float, high: float, unit: str = "%") -> str:
    """The interval of a drop in words, the nearer end first where both have one direction: '0.70 to 2.50 points worse'."""
    if low < 0 <= high:
        return f"{beside(low, unit)} to {beside(high, unit)}"
    near, far = (low, high) if low >= 0 else (high, low)
    return f"{figure(abs(near), unit)} to {beside(far, unit)}"
