"""The page of own models and losses: its files, its exports and its recipe run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import edgekd
from edgekd.models import load_model
from edgekd.recipe import Model

PAGE = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FILES = {block.splitlines()[0].removeprefix("# "): block for block in BLOCKS if block.startswith("# ")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter to ONNX warns of its own code
def test_the_files_that_the_page_writes_give_what_its_network_gives(folder: Path) -> None:
    (code,) = (block for block in BLOCKS if not block.startswith("# "))
    made: dict[str, object] = {}
    exec(compile(code, "models.md", "exec"), made)
    model, x = made["model"], torch.rand(5, 1, 8, 8)
    assert isinstance(model, torch.nn.Module) and set(FILES) == {"nets.py", "losses.py"}
    told = list[str]()
    with torch.no_grad():
        for reference in (
            Model(model="onnx:teacher.onnx"),
            Model(model="exported:teacher.pt2"),
            Model(model="python:nets.py:small", weights="teacher.pt"),
        ):
            loaded = load_model(reference, num_classes=10, in_channels=1, tell=told.append)
            torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)
    assert told == ["reads the 'state_dict' of a checkpoint from teacher.pt"]


def test_the_recipe_of_the_page_builds_with_its_network_and_its_loss(folder: Path) -> None:
    (recipe,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "edgekd.toml").write_text(recipe)
    overrides = ["budget.above_majority=false", "budget.max_class_drop=100"]
    places = {"output": folder / "build", "cache": folder / "cache"}
    report = edgekd.build(folder, "x86-cpu", overrides=overrides, ask=lambda question: True, **places)
    rows = dict(report.summary)
    assert "beta 0.5" in rows["loss python:losses.py:robust"] and "right_only" in rows["loss python:losses.py:robust"]
    assert "kd" in str(rows) and str(folder) not in str(rows)
