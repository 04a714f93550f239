"""Several processes: two on the processor (gloo) build one bundle together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekd.cache.stage import SCRATCH, Artifact, damage
from edgekd.models.accelerator import uses_bf16
from edgekd.recipe import Recording, load_recipe
from edgekd.steps.problem import TrainingSet
from edgekd.steps.record import record_teacher
from edgekd.steps.trained import Trained
from tests.builders.recipes import RECIPE


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


@pytest.mark.slow
def test_two_processes_train_one_student(tmp_path: Path) -> None:
    """With a loss whose adapters get no gradient any more in the last epoch, for which the other process would wait."""
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    fitnet = '{method="fitnet", layers="auto", until_epoch=2, weight=1e-3}'
    losses = f'distill.losses=[{{method="kd", temperature="auto"}}, {fitnet}]'
    # torch's own launcher: `accelerate launch --cpu` of accelerate 1.15 starts one process, whatever --num_processes says.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()),
        "-m", "edgekd.cli", "build", "-t", "x86-cpu",
        "--cache", "cache", "--set", "budget.max_drop_from_fp32=100", "--set", "distill.epochs=3", "--set", "quantize.mode=qat",
        "--set", "quantize.epochs=1", "--set", losses,
    ]  # fmt: skip
    on_the_processor = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        command, cwd=tmp_path, env=on_the_processor, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    bundle = tmp_path / "build" / tmp_path.name / "x86-cpu"
    report = json.loads((bundle / "report.json").read_text())
    assert len(report["curves"]) == 3 and report["curves"][2]["loss"] < report["curves"][0]["loss"]
    assert not list((tmp_path / "cache").glob(".draft-*"))
    stored = [folder for folder in (tmp_path / "cache").iterdir() if (folder / "artifact.json").exists()]
    assert len(stored) == len(report["stages"])
    assert [damage(folder, thorough=True) for folder in stored] == [None] * len(stored)

    def made(name: str) -> Artifact:
        (folder,) = (tmp_path / "cache").glob(f"{name}-*")
        return Artifact(name, "", folder, 0.0, True, lambda: made(name))

    # What two processes recorded is what one records.
    recipe, alone = load_recipe(tmp_path), tmp_path / "alone"
    (alone / SCRATCH).mkdir(parents=True)
    recording = Recording(views=1, format="float16", top_k=0, bf16=uses_bf16("auto"))
    teacher = Trained(recipe.teachers[0], made("train_teacher"))
    record_teacher(teacher, TrainingSet(made("decode"), recipe.data, recipe.task), recording, out=alone)
    shared_out, by_one = np.load(made("record_teacher") / "logits.npy"), np.load(alone / "logits.npy")
    assert by_one.std() > 0.1 and (shared_out == by_one).all()
