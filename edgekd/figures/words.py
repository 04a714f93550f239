"""Figures in words, the same in every report: milliseconds, megabytes, accuracies, where they come from."""

from __future__ import annotations

import math

from edgekd.figures.figures import Accuracy, Latency

NOT_MEASURED = "not measured"


def top1(accuracy: Accuracy) -> str:
    return f"{accuracy.top1:.2f} ±{(accuracy.high - accuracy.low) / 2:.2f}"


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


def origins(accuracy: Accuracy, latency: Latency | None) -> str:
    """One word where both figures come from the same place, else both."""
    if latency is None or latency.origin == accuracy.origin:
        return accuracy.origin
    return f"{accuracy.origin}, ms: {latency.origin}"


def signed(points: float) -> str:
    """'+0.56' better, '-2.00' worse, '0.00' no difference."""
    return f"{points:+.2f}" if round(points, 2) else "0.00"


def beside(drop: float) -> str:
    """Points that one accuracy lies under another, in words whose sign is right: '1.50 points under', '2.67 points above'."""
    return f"{abs(drop):.2f} points {'above' if drop < 0 else 'under'}"
