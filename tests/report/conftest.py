"""`report`: a realistic report, made by hand; tests change single fields with `model_copy`."""

from __future__ import annotations

import pytest

from edgekd.figures.candidate import Candidate, Check, Latency, Score
from edgekd.figures.figures import Report

NASTY = "<script>alert(1)</script>"
MACHINE = "Example CPU @ 2.50GHz, 2 cores, x86_64 avx2 avx512_vnni, Linux 6.1"


def accuracy(top1: float, shift: float = 0.0) -> Score:
    parts = {"cat": 80.0 + shift, "dog": 85.0, NASTY: 97.0 + shift}
    return Score(value=top1, low=top1 - 0.5, high=top1 + 0.5, n=10000, split="test", runtime="rt 1.0", parts=parts)


def latency(p50_ms: float, *, stable: bool = True) -> Latency:
    return Latency(
        p50_ms=p50_ms,
        p90_ms=p50_ms * 1.1,
        low_ms=p50_ms * 0.98,
        high_ms=p50_ms * 1.02,
        n=300,
        block_medians_ms=(p50_ms, p50_ms, p50_ms * (1.0 if stable else 1.2)),
        stable=stable,
        threads=1,
        machine=MACHINE,
        runtime="rt 1.0",
    )


@pytest.fixture
def report() -> Report:
    fp32 = accuracy(90.85)
    return Report(
        recipe="cifar10-small",
        target="edge-box",
        target_title="x86 edge box",
        created="2026-11-21T00:00:00Z",
        seconds=3725.0,
        machine=MACHINE,
        versions={"python": "3.11.7", "onnxruntime": "1.31.1"},
        classes=("cat", "dog", NASTY),
        teacher=accuracy(94.61),
        teacher_size_mb=14.9,
        student=fp32,
        student_parameters=78042,
        candidates=(
            Candidate(
                name="fp32",
                file="model.fp32.onnx",
                size_mb=0.31,
                score=fp32,
                latency=latency(0.92),
                reason="slower than int8",
            ),
            Candidate(
                name="int8",
                file="model.onnx",
                size_mb=0.1,
                score=accuracy(90.41, -3.0),
                latency=latency(0.41, stable=False),
                peak_memory_mb=4.1,
                shipped=True,
                reason="fastest within the budget",
            ),
        ),
        checks=(
            Check(name="drop from fp32", verdict="pass", found="0.44 points", limit="1.0 points"),
            Check(name="latency on the device", verdict="not measured", found="no device", origin="not measured"),
        ),
        curves=(
            {"epoch": 1.0, "lr": 0.1, "loss": 2.0, "loss/kd": 1.5, "holdout": 40.0},
            {"epoch": 2.0, "lr": 0.05, "loss": 1.0, "loss/kd": 0.7, "holdout": 70.0},
        ),
        warnings=(f"class {NASTY} is rare",),
        stages=({"name": "distill", "key": "77e0", "seconds": 60.0, "reused": True},),
    )
