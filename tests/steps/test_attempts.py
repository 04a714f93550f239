"""A candidate that fails does not end the build: it is dropped with its reason, and the others go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekd
from edgekd.bundle.drafts import draft_of
from edgekd.bundle.write import verify_bundle
from edgekd.errors import BundleError, CacheError, ExportError, ModelError, RecipeError, UnknownLayerError
from edgekd.export.to_half import to_fp16
from edgekd.export.to_onnx import to_onnx
from edgekd.recipe import load_recipe
from edgekd.runtime import runners
from edgekd.runtime.runners import OnnxRunner
from edgekd.runtime.sessions import Ended
from edgekd.steps.attempts import Attempts
from tests.builders.measuring import SHORT
from tests.builders.recipes import TINY

# onnxruntime 1.31 ends the process in its pass NchwcTransformer on the fp16 graph of `vit`, which edgekd therefore leaves out.
STUDENTS = """
import os, signal, sys
import torch
from torch import nn

class Vit(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, 2)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, outputs)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

class Plain(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, outputs))

    def forward(self, x):
        return self.layers(x)

class Leaves(Plain):
    def forward(self, x):
        if self.training:
            sys.exit(0)
        return super().forward(x)

def vit(num_classes):
    return Vit(num_classes)

def plain(num_classes):
    return Plain(num_classes)

def leaves(num_classes):
    return Leaves(num_classes)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "students.py").write_text(STUDENTS)
    (tmp_path / "edgekd.toml").write_text(TINY)
    return tmp_path


def built(folder: Path, *overrides: str) -> tuple[edgekd.Report, Path]:
    recipe = load_recipe(folder, overrides)
    report = edgekd.build(recipe, "jetson", output=folder / "build", cache=folder / "cache", timing=SHORT)
    return report, folder / "build" / folder.name / "jetson-orin-nano"


@pytest.fixture
def all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime as it is by itself."""
    monkeypatch.setattr(runners, "nchwc_may_end_it", lambda path: False)


def test_attention_behind_a_convolution_ships_in_fp16(folder: Path) -> None:
    """And the bundle's own run.py opens it on this machine too."""
    report, bundle = built(folder, f"student.model=python:{folder / 'students.py'}:vit")
    assert not report.dropped and report.chosen.name == "fp16"
    done = subprocess.run(
        [sys.executable, "run.py", "--verify"], cwd=bundle, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("all_passes")
def test_a_runtime_that_ends_the_process_on_one_candidate_leaves_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """report.json, the terminal and the page say why, and fp32 ships."""
    _, bundle = built(folder, f"student.model=python:{folder / 'students.py'}:vit")
    reason = "the runtime ended with signal 11 (SIGSEGV) while it opened the model at its highest optimisation level"
    written = json.loads((bundle / "report.json").read_text())
    assert written["dropped"] == [{"name": "fp16", "reason": reason}]
    assert [candidate["name"] for candidate in written["candidates"]] == ["fp32"]
    told = capsys.readouterr().err
    assert "fp16 was dropped" in told and "(SIGSEGV)" in told
    assert reason in (bundle / "report.html").read_text()
    assert not list((folder / "cache").glob("export_fp16-*"))  # a failure is no figure: it is tried again
    assert all(ok for _, ok, _ in verify_bundle(bundle))


@pytest.mark.usefixtures("all_passes")
def test_a_teacher_that_ends_its_runtime_is_refused_in_a_line(folder: Path) -> None:
    """Before anything is trained, though the process that opened it is gone."""
    import torch

    scope: dict[str, object] = {}
    exec(STUDENTS, scope)
    student = scope["vit"](10).eval()  # type: ignore[operator]
    to_onnx(student, folder / "vit.onnx", torch.rand(2, 1, 8, 8), opset=20)
    to_fp16(folder / "vit.onnx", folder / "teacher.onnx")
    with pytest.raises(Ended, match="SIGSEGV"):
        OnnxRunner(folder / "teacher.onnx")
    with pytest.raises(ModelError, match=r"teacher\.onnx' .*signal 11"):
        built(folder, 'teacher={model="onnx:teacher.onnx"}')
    assert not list((folder / "cache").glob("*distill*"))


def test_fp32_that_fails_is_dropped_and_the_float_student_counts_as_torch_computes_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is killed when it opens the file to score it; int8 ships and is compared with the module."""
    from edgekd.runtime import sessions

    own = sessions.Session.__init__

    def kill_at_fp32(self: sessions.Session, source: object, **words: object) -> None:
        own(self, source, **words)  # type: ignore[arg-type]
        if "/export_fp32-" in str(source):  # the stored file; while it is made its folder is a draft
            os.kill(self.pid, 9)

    monkeypatch.setattr(sessions.Session, "__init__", kill_at_fp32)
    report, bundle = built(folder, "quantize.mode=ptq", "budget.max_drop_from_fp32=5")
    assert report.chosen.name in ("fp16", "int8") and "fp32" not in {c.name for c in report.candidates}
    assert [(d.name, "SIGKILL" in d.reason) for d in report.dropped] == [("fp32", True)]
    assert report.student.runtime.startswith("torch ") and abs(report.student.value - report.chosen.score.value) <= 5
    assert any(check.name == "max_drop_from_fp32" and check.verdict == "pass" for check in report.checks)
    assert not (bundle / "model.fp32.onnx").exists() and all(ok for _, ok, _ in verify_bundle(bundle))


def test_where_none_is_left_the_build_fails_with_each_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process ends before it answers."""
    from edgekd.runtime import sessions

    own = sessions.Session.run

    def killed(self: sessions.Session, *words: object) -> list[np.ndarray]:
        os.kill(self.pid, 9)
        return own(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(sessions.Session, "run", killed)
    with pytest.raises(ExportError, match=r"fp32 .*SIGKILL.*fp16 .*from fp32"):
        built(folder)
    assert not (folder / "build").exists()


def test_what_would_fail_for_all_ends_the_build() -> None:
    """A full disk is no fault of a candidate, nor is a recipe's mistake; a KeyError in an exporter is."""
    tried = Attempts()

    def full() -> None:
        raise CacheError("no space left")

    def broken() -> None:
        raise KeyError("s77")

    def misspelt() -> None:
        raise UnknownLayerError("keep_float = 'lyer1' names no operator")

    with pytest.raises(CacheError):
        tried.of("fp32", full)
    with pytest.raises(RecipeError, match="lyer1"):
        tried.of("int8", misspelt)
    assert tried.of("int8", broken) is None and tried.dropped == {"int8": "KeyError: 's77'"}


def test_code_of_the_user_s_that_ends_the_program_is_told_with_its_line(folder: Path) -> None:
    """A forward that leaves in training: exit code 0 and no bundle would look like success."""
    command = [sys.executable, "-m", "edgekd.cli", "build", "-t", "jetson", "--cache", "c"]
    done = subprocess.run(
        [*command, "--set", "student.model=python:students.py:leaves"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "sys.exit(0)" in done.stderr and "students.py, line 27" in done.stderr


@pytest.mark.slow
def test_a_terminal_of_ascii_alone_gets_the_nearest_characters(folder: Path) -> None:
    """The work is not lost to the character that marks what ships."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "edgekd.cli", "build", "-t", "jetson", "--cache", "c"], cwd=folder, capture_output=True,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode("ascii")
    assert "> fp" in text and "+-" in text


def test_a_full_disk_of_the_output_names_the_output(tmp_path: Path) -> None:
    """What was to be copied there lies in the cache, which is not full."""
    (tmp_path / "cache.onnx").write_bytes(bytes(100_000))
    with pytest.raises(BundleError, match=r"no space .*/out") as told:
        (tmp_path / "out").mkdir()
        with draft_of(tmp_path / "out" / "jetson") as draft:
            (draft / "model.onnx").symlink_to("/dev/full")
            shutil.copyfile(tmp_path / "cache.onnx", draft / "model.onnx")
    assert "cache.onnx" not in str(told.value)
    assert not list((tmp_path / "out").iterdir())
