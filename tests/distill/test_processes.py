"""Several processes that train together end in the same epoch, and keep the same one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from edgekd.base import processes
from edgekd.distill.train import Modes, train
from edgekd.inputs.image import INPUT
from edgekd.models.forward import logits_of
from edgekd.recipe import Optimizer
from tests.builders.training import LABELS, PIXELS, lesson_on, network, samples, settings

found = {}
epoch_now = 0

def at_epoch(model, epoch):
    global epoch_now
    epoch_now = epoch

def evaluate(model):  # what this process finds by itself on the hold-out pictures
    model.eval()
    with torch.no_grad():
        named = logits_of(model, samples().input, {INPUT: PIXELS[80:]}).argmax(1).numpy()
    found[epoch_now] = 100 * float((named == LABELS[80:]).mean())

out = Path(sys.argv[1]) / str(processes.RANK)
out.mkdir()
student = network()
student[1].momentum = 1.0  # its statistics are those of the last batch, of which each process has another half
given = settings(keep="best", patience=1, epochs=8, optimizer=Optimizer(lr=0.001))
train(student, lesson_on(samples()), given, out, Modes(evaluate=evaluate, at_epoch=at_epoch))
(out / "figures.json").write_text(json.dumps([found[epoch] for epoch in sorted(found)]))
"""


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


@pytest.mark.slow
def test_two_processes_with_other_figures_end_in_the_same_epoch(tmp_path: Path) -> None:
    """BatchNorm has other statistics in each process, so each finds another figure; that of the first decides."""
    (tmp_path / "together.py").write_text(SCRIPT)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()),
        str(tmp_path / "together.py"), str(tmp_path),
    ]  # fmt: skip
    on_the_processor = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=on_the_processor, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / rank / "figures.json").read_text()) for rank in "01")
    ends = [next(epoch for epoch in range(1, 8) if max(own[:epoch]) >= own[epoch]) + 1 for own in (first, second)]
    assert ends[0] != ends[1], "each alone would end in the same epoch: this shows nothing"
    assert len(first) == len(second) == ends[0] < 8
    lines = [json.loads(line) for line in (tmp_path / "0" / "metrics.jsonl").read_text().splitlines()]
    assert [line["holdout"] for line in lines] == pytest.approx(first, abs=1e-3)
