"""A build that is killed at any moment goes on, and ends with the weights of an uninterrupted one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.builders.places import hear_interrupts
from tests.builders.recipes import RECIPE

WORDS = (
    "build",
    "-t",
    "jetson",
    "--set",
    "budget.max_drop_from_fp32=100",
    "--set",
    "quantize.mode=qat",
    "--set",
    "quantize.epochs=2",
)
EPOCHS = ("--set", "distill.epochs=4", "--set", "teacher.train_epochs=2")


def start(folder: Path, cache: str, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgekd.cli", *WORDS, *EPOCHS, "--cache", cache, "-o", f"{cache}-build", *more], cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=hear_interrupts,
    )  # fmt: skip


def weights(cache: Path) -> dict[str, str]:
    """The hash of every stage's weights and of every exported model."""
    files = sorted(
        [*cache.glob("*/*.safetensors"), *cache.glob("*/*.onnx"), *cache.glob("record_teacher-*/logits.npy")]
    )
    return {f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_killed_again_and_again_the_build_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Killed after 4, 7, 10, ... seconds: in each stage sooner or later, on a machine of any speed."""
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    whole = start(tmp_path, "whole")
    whole.communicate(timeout=600)
    assert whole.returncode == 0
    kills = 0
    for seconds in range(4, 400, 3):
        build = start(tmp_path, "killed")
        try:
            _, said = build.communicate(timeout=seconds)
            assert build.returncode == 0, said.decode()
            break
        except subprocess.TimeoutExpired:
            os.kill(build.pid, signal.SIGKILL)
            build.communicate()
            kills += 1
    assert kills > 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert len(weights(tmp_path / "whole")) >= 7


@pytest.mark.slow
def test_killed_in_an_epoch_it_goes_on_after_the_last_whole_one(tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    build = start(tmp_path, "cache")
    deadline = time.monotonic() + 240
    while not (checkpoints := list((tmp_path / "cache").glob(".draft-distill-*/scratch/checkpoint.pt"))):
        assert build.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    build.kill()
    build.communicate()
    assert checkpoints and not list((tmp_path / "cache").glob("distill-*"))
    again = start(tmp_path, "cache")
    _, said = again.communicate(timeout=240)
    assert again.returncode == 0 and b"going on after epoch" in said
    assert not list((tmp_path / "cache").glob(".draft-*"))


def test_interrupted_it_says_that_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    build = start(tmp_path, "cache", "--set", "distill.epochs=10000")
    deadline = time.monotonic() + 240
    while not list((tmp_path / "cache").glob(".draft-distill-*/scratch/checkpoint.pt")):
        assert build.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    build.send_signal(signal.SIGINT)
    try:
        _, said = build.communicate(timeout=60)
    finally:
        build.kill()
    assert build.returncode == 130 and b"the same command goes on from there" in said and b"Traceback" not in said
