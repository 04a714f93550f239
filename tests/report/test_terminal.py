"""The report in 80 columns."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from edgekd.figures.candidate import Check
from edgekd.figures.figures import QuantizationStep, Report
from edgekd.figures.words import milliseconds
from edgekd.report.terminal import render


def printed(given: Report, bundle: Path | None = None) -> str:
    file = io.StringIO()
    Console(width=80, file=file).print(render(given, bundle))
    return file.getvalue()


def test_no_line_is_wider_than_eighty_columns(report: Report) -> None:
    assert max(len(line) for line in printed(report).splitlines()) <= 80


def test_the_way_to_int8_is_told_in_eighty_columns(report: Report) -> None:
    steps = [("ptq", 88.0, 2.0, False), ("ptq, refined, 16 layers in float", 89.9, 0.1, True)]
    path = tuple(
        QuantizationStep(name=name, holdout=top1, drop=drop, holds=holds, taken=holds, seconds=3.0)
        for name, top1, drop, holds in steps
    )
    text = printed(report.model_copy(update={"quantization_path": path}))
    assert max(len(line) for line in text.splitlines()) <= 80
    first, second = (line for line in text.splitlines() if "ptq" in line)
    assert first.split() == ["ptq", "88.00", "-2.00", "missed"]
    assert second.startswith("▸ ptq, refined, 16 layers in float") and second.split()[-3:] == [
        "89.90",
        "-0.10",
        "holds",
    ]


def test_the_shipped_row_is_marked_and_explained(report: Report) -> None:
    text = printed(report, Path("build/edge-box"))

    assert "▸ int8    90.41 ±0.50" in text
    assert "int8 is taken: fastest within the budget" in text
    assert "fp32 lost:     slower than int8" in text
    assert "bundle: build/edge-box" in text


def test_a_way_to_quantize_that_gains_is_above_fp32(report: Report) -> None:
    step = QuantizationStep(name="ptq", holdout=90.56, drop=-0.56, holds=True, taken=True, seconds=1.0)
    line = next(
        line for line in printed(report.model_copy(update={"quantization_path": (step,)})).splitlines() if "ptq" in line
    )
    assert line.split()[-2:] == ["+0.56", "holds"]


def test_the_last_lines_say_whether_to_ship_in_the_terminal_and_in_json(report: Report) -> None:
    missed = Check(name="size_mb", verdict="missed", found="0.310 MB", limit="at most 0.05")
    told = report.model_copy(update={"checks": (missed, *report.checks)})
    lines = [line.rstrip() for line in printed(told).splitlines()]
    assert lines[-2:] == ["NOT TO SHIP: 1 check missed (size_mb)", "  size_mb: 0.310 MB, limit at most 0.05"]
    assert "int8 is taken: fastest within the budget" in lines

    undecided = " ".join(printed(report, Path("build/box")).split())
    assert undecided.endswith("missing: latency on the device: no device")
    assert "NOT DECIDED: no budget of accuracy or latency is set and latency on the device is not measured" in undecided

    stored = told.model_dump_json()
    assert json.loads(stored)["headline"] == "NOT TO SHIP: 1 check missed (size_mb)"
    assert Report.model_validate_json(stored) == told
    lying = json.dumps({**json.loads(stored), "headline": "int8 ships"})
    assert Report.model_validate_json(lying).headline == told.headline


def test_every_row_names_its_origin_and_the_conditions_follow(report: Report) -> None:
    text = printed(report)

    assert "host" in next(line for line in text.splitlines() if "fp32" in line)
    assert "batch 1, 1 thread, n 300" in " ".join(text.split())


def test_the_host_s_milliseconds_are_called_no_sign_of_a_device_with_tensorrt(report: Report) -> None:
    told = "no sign of the device, whose runtime is TensorRT"
    assert told in " ".join(printed(report.model_copy(update={"runtime": "tensorrt"})).split())
    assert told not in " ".join(printed(report.model_copy(update={"runtime": "onnxruntime"})).split())


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
