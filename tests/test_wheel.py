"""The wheel, installed beside the libraries in an environment of its own, away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_alone_builds_a_bundle(tmp_path: Path) -> None:
    pytest.importorskip("build")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    # The libraries are taken from this environment instead of being fetched again; ours comes first on the path.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    where = run(python, "-c", "import edgekd; print(edgekd.__file__)", cwd=tmp_path)
    assert str(site) in where
    words = [
        "--set",
        "teacher.train_epochs=3",
        "--set",
        "data.size=[16, 16]",
        "--set",
        "distill.epochs=1",
        "--set",
        "quantize.epochs=1",
    ]
    words += ["--set", "budget.max_drop_from_fp32=100", "--set", "budget.min_accuracy=2", "--cache", tmp_path / "cache"]
    words += ["--set", "budget.max_class_drop=100", "--set", "budget.above_majority=false"]  # one epoch teaches little
    run(python, "-m", "edgekd.cli", "build", "--target", "jetson", *words, cwd=tmp_path)
    bundle = tmp_path / "build" / "digits" / "jetson-orin-nano"
    assert (
        (bundle / "run.py").is_file() and (bundle / "build_engine.py").is_file() and (bundle / "report.html").is_file()
    )
    run(python, bundle / "run.py", "--verify", cwd=tmp_path)
