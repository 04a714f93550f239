"""What a bundle answers by itself, and what a device finds, here this machine by the same way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.figures.figures import Report
from edgekd.measure.compare import compare_on
from edgekd.measure.on_device import Options, measure_on, trial_of
from edgekd.measure.samples import samples_for_accuracy
from tests.builders.devices import here

QUICK = Options(warmup_s=0.02, block_s=0.02, min_n=30)


def run_py(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_scored_there(built: tuple[Report, Path], metric: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """`measure --accuracy` has the report's score, and `verify --samples` finds the same answers."""
    report, bundle = built
    patch.setenv("EDGEKD_CACHE", str(bundle.parents[2] / "cache"))
    device = here(folder)
    with samples_for_accuracy(bundle) as samples:
        score = measure_on(device, trial_of(bundle), QUICK, samples).score
    assert score is not None and score.metric == metric and score.n == report.chosen.score.n
    assert score.value == pytest.approx(report.chosen.score.value, rel=1e-6)
    (row,) = (row for row in compare_on(device, bundle, samples=20) if row[0] == f"{metric} on here")
    assert row[1] and "the same answer on 100.00%" in row[2]
