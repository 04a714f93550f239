"""What others give edgekd is read, or refused in a line: a few hundred of the inputs of benchmarks/fuzz.py, by their seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz import fault, faults
from benchmarks.fuzz_parsers import PARSERS

COSTLY = {"pt2": 5, "answer": 5, "golden": 15, "manifest": 15, "inputs": 15, "onnx": 20, "cache": 10}  # the others: 40
FOUND: dict[str, list[int]] = {
    "manifest": [1925, 2300, 100356, 100599, 100877],
    "onnx": [100363],
    "target": [1015],
    "recipe": [580609],
    "pt2": [509836],
    "devices": [2700, 304650],
    "answer": [300448, 302317, 305395],
    "parquet": [303935, 512546, 533134],
    "layout": [31, 145, 232],
}
"""Seeds at which something was wrong once."""


@pytest.mark.parametrize("parser", PARSERS)
def test_damaged_inputs_are_read_or_refused_in_a_line(parser: str) -> None:
    """No traceback, no crash, nothing that takes long or a screen full of text."""
    wrong = {seed: what for seed in range(COSTLY.get(parser, 40)) if (what := fault(parser, seed))}
    assert not wrong, "\n".join(f"{parser} {seed}: {what}" for seed, what in wrong.items())


@pytest.mark.parametrize("parser, seed", [(parser, seed) for parser, seeds in FOUND.items() for seed in seeds])
def test_what_was_wrong_once_is_right(parser: str, seed: int) -> None:
    assert not fault(parser, seed)


@pytest.mark.slow
def test_a_crash_is_a_fault_and_the_next_inputs_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that reads them is a process of its own."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, tempfile\ntempfile.TemporaryDirectory = lambda **_: os.abort()\n"  # each input needs a folder
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert list(faults("override", 5, 2)) == [(5, "the process ended with -6"), (6, "the process ended with -6")]
