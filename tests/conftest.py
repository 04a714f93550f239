"""What several tests need: where facts lie beside a checkout, and a short recipe on real scans."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import edgekd
from edgekd.api import DEMO
from edgekd.figures.figures import Report
from edgekd.models import accelerator
from edgekd.recipe import Recipe, load_recipe
from tests.builders.emulated_accelerator import accelerator as on_accelerator
from tests.builders.measuring import SHORT
from tests.builders.places import EXAMPLES, SHARED
from tests.builders.sounds import RATE, write_words


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much of TensorRT was not tried here."""
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if "tensorrt" in report.keywords]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests need the real TensorRT and were skipped: nothing stands in for it"
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--emulated-accelerator",
        action="store_true",
        help="training runs on a device that refuses tensors of the processor, as a GPU does",
    )


@pytest.fixture
def emulated_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """What chooses the device gives one that is not the processor: mixing tensors of both is an error."""
    with on_accelerator() as device:
        monkeypatch.setattr(accelerator, "device", lambda: device)
        yield device


@pytest.fixture(autouse=True)
def _accelerator(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--emulated-accelerator"):
        request.getfixturevalue("emulated_accelerator")


@pytest.fixture
def shared() -> Path:
    """The folder of data and teachers beside the checkout; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no data beside the checkout: {SHARED} does not exist")
    return SHARED


@pytest.fixture(scope="session")
def old_python() -> str:
    """An interpreter of 3.8, the oldest that a device may have: from EDGEKD_PYTHON38, the path, or pyenv."""
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8"))
    for command in filter(None, (os.environ.get("EDGEKD_PYTHON38"), "python3.8", *map(str, pyenv))):
        try:
            if subprocess.run([command, "-c", ""], capture_output=True, check=False).returncode == 0:
                return command
        except OSError:
            continue
    pytest.skip("no Python 3.8 here (EDGEKD_PYTHON38 may name one): what runs there is only parsed as such")


@pytest.fixture
def short_digits() -> Recipe:
    """The built-in demo with few epochs: a second of training each."""
    return load_recipe(
        DEMO,
        [
            "data.size=[8, 8]",
            "data.augment.crop_padding=1",
            "teacher.train_epochs=2",
            "teacher.args.width=8",
            "student.args.width=8",
            "distill.epochs=2",
            "distill.views=2",
            "quantize.epochs=1",
            "budget.min_accuracy=10",
        ],
    )


WORDS = (
    f"data.sample_rate={RATE}", "data.seconds=0.5", "data.holdout=0.1", "data.n_fft=256", "data.hop_length=128", "data.n_mels=20",
    "data.augment.shift_ms=150", "teacher.args.width=24", "teacher.train_epochs=12", "student.args.width=16", "distill.epochs=15",
    "distill.batch_size=16", "distill.views=2", "distill.precision=fp32", "distill.label_weight=0.5", "distill.optimizer.lr=0.02",
    "quantize.calibration_samples=64", "budget.max_drop_from_fp32=10",
)  # fmt: skip
"""examples/wakeword at a size of seconds."""


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """The report and the bundle of examples/wakeword on three tones and a background."""
    folder = tmp_path_factory.mktemp("words")
    write_words(folder / "train", 100, 0)
    write_words(folder / "test", 20, 500)
    data = [f"data.train={folder / 'train'}", f"data.test={folder / 'test'}"]
    places = {"output": folder / "build", "cache": folder / "cache"}
    report = edgekd.build(EXAMPLES / "wakeword", "x86-cpu", overrides=[*data, *WORDS], timing=SHORT, **places)
    return report, folder / "build" / "wakeword" / "x86-cpu"
