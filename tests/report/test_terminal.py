"""The report in 80 columns."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from edgekd.report.model import QuantizationStep, Report
from edgekd.report.terminal import milliseconds, render


def printed(given: Report, bundle: Path | None = None) -> str:
    file = io.StringIO()
    Console(width=80, file=file).print(render(given, bundle))
    return file.getvalue()


def test_no_line_is_wider_than_eighty_columns(report: Report) -> None:
    assert max(len(line) for line in printed(report).splitlines()) <= 80


def test_the_way_to_int8_is_told_in_eighty_columns(report: Report) -> None:
    steps = [("ptq", 88.0, 2.0, False), ("ptq, refined, 16 layers in float", 89.9, 0.1, True)]
    path = tuple(
        QuantizationStep(name=name, holdout_top1=top1, drop=drop, holds=holds, taken=holds, seconds=3.0)
        for name, top1, drop, holds in steps
    )
    text = printed(report.model_copy(update={"quantization_path": path}))
    assert max(len(line) for line in text.splitlines()) <= 80
    first, second = (line for line in text.splitlines() if "ptq" in line)
    assert first.split() == ["ptq", "88.00", "2.00", "missed"]
    assert second.startswith("▸ ptq, refined, 16 layers in float") and second.split()[-3:] == ["89.90", "0.10", "holds"]


def test_the_shipped_row_is_marked_and_explained(report: Report) -> None:
    text = printed(report, Path("build/edge-box"))

    assert "▸ int8    90.41 ±0.50" in text
    assert "int8 ships: fastest within the budget" in text
    assert "fp32 lost:  slower than int8" in text
    assert "bundle: build/edge-box" in text


def test_every_row_names_its_origin_and_the_conditions_follow(report: Report) -> None:
    text = printed(report)

    assert "host" in next(line for line in text.splitlines() if "fp32" in line)
    assert "batch 1, 1 thread, n 300" in " ".join(text.split())


def test_an_unmeasured_latency_and_an_unstable_machine_are_said(report: Report) -> None:
    text = printed(report)

    assert "not measured" in next(line for line in text.splitlines() if line.startswith("teacher"))
    assert "~ the machine was not stable" in text


def test_a_name_in_brackets_is_no_markup(report: Report) -> None:
    check = report.checks[0].model_copy(update={"name": "[red]layer[/red]"})

    assert "[red]layer[/red]" in printed(report.model_copy(update={"checks": (check,)}))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0412, "0.0412"), (0.41, "0.410"), (5.0, "5.00"), (48.25, "48.2"), (1234.5, "1234")]
)
def test_milliseconds_have_three_significant_digits(value: float, text: str) -> None:
    assert milliseconds(value) == text
