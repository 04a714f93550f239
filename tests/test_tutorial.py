"""The tutorial's commands, run in their order on pictures of circles and squares."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.builders.typed import typed

PAGE = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text()
COMMANDS = [line.split() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


STARTS = (
    "init", "build -t x86-cpu", "report", "build/shapes/x86-cpu/run.py pictures", "build/shapes/x86-cpu/run.py --verify", "compare",
)  # fmt: skip


def draw(folder: Path) -> None:
    """120 circles and 120 squares of 32 x 32 pixels, each in its own place and colours."""
    rng = np.random.default_rng(0)
    for shape in ("circle", "square"):
        (folder / shape).mkdir(parents=True)
        for number in range(120):
            dark, bright = (tuple(map(int, rng.integers(low, low + 100, 3))) for low in (0, 150))
            left, top, side = (int(value) for value in (*rng.integers(2, 12, 2), rng.integers(12, 18)))
            picture = Image.new("RGB", (32, 32), dark)
            pen = ImageDraw.Draw(picture)
            (pen.ellipse if shape == "circle" else pen.rectangle)((left, top, left + side, top + side), fill=bright)
            picture.save(folder / shape / f"{number}.png")


@pytest.mark.slow
def test_every_command_of_the_tutorial_works_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEKD_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "shapes"
    draw(folder / "pictures")
    printed = {}
    for program, *words in COMMANDS:
        if program == "edgekd":
            done = typed(*words, cwd=folder)
        else:
            command = [sys.executable, "-B", *words]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        printed[" ".join(words)] = done.stdout
    found = {start: next(text for words, text in printed.items() if words.startswith(start)) for start in STARTS}
    assert "test = 0.2 takes a fifth" in found["init"]
    assert "NOT DECIDED: p90_latency_ms is not measured" in found["build -t x86-cpu"].replace("\n", " ")
    report = " ".join(found["report"].split())
    assert "latency on here" in report and re.search(r"p90_latency_ms (pass|unstable)", report)
    assert re.search(
        r"SHIP: int8 keeps the budgets of accuracy and of latency on this machine|NOT DECIDED: .* unstable", report
    )
    assert re.match(r" *\d+\.\d\d %  (circle|square)\n", found["build/shapes/x86-cpu/run.py pictures"])
    assert "stored outputs" in found["build/shapes/x86-cpu/run.py --verify"]
    assert "beside A" in found["compare"]
