"""A build whose recipe asks for the best epoch, an early end, weighted classes, balanced sampling and colour jitter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import edgekd
from edgekd.data.digits import load
from tests.builders.measuring import SHORT

RECIPE = """
name = "few"
[data]
train = "python:tests.test_training:few"
test = "python:edgekd.data.digits:load"
mean = [0.31]
std = [0.38]
holdout = 0.2
augment = { jitter = 0.2 }
[student]
model = "edgekd:resnet8"
args = { width = 4 }
[distill]
epochs = 12
views = 1
losses = []
label_weight = 1.0
precision = "fp32"
keep = "best"
patience = 2
class_weights = "balanced"
sampling = "balanced"
[quantize]
mode = "qat"
epochs = 3
[budget]
above_majority = false
"""


def few(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], tuple[str, ...]]:
    """The first 100 digits."""
    images, labels, classes = load(split)
    return images[:100], labels[:100], classes


@pytest.mark.slow
def test_the_build_tells_the_batch_that_it_takes_the_epoch_that_it_keeps_and_the_early_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    report = edgekd.build(tmp_path, "x86-cpu", output=tmp_path / "build", cache=tmp_path / "cache", timing=SHORT)
    told = " ".join(capsys.readouterr().err.split())
    assert "there are 80 training samples, fewer than the default batch of 128: batches have 8" in told
    figures = [epoch["holdout"] for epoch in report.curves]
    (kept,) = [int(epoch["epoch"]) for epoch in report.curves if "kept" in epoch]
    assert figures[kept - 1] == max(figures)
    assert len(figures) == figures.index(max(figures)) + 1 + 2 < 12
    assert f"student: keeps epoch {kept} of {len(figures)}" in told
    rows = dict(report.summary)
    assert rows["labels"] == "cross-entropy, weight 1, class weights balanced" and "jitter 0.2" in rows["data"]
    assert ", batch 8, " in rows["training"]
    assert rows["training"].endswith(
        f"each class equally often, ended after epoch {len(figures)} (patience 2), kept epoch {kept}, the best on the hold-out split"
    )
    # The quantization-aware training goes to its end and takes the last epoch.
    assert len(report.quantization_curves) == 3
    assert not any("kept" in epoch for epoch in report.quantization_curves)
