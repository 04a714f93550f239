"""One student, several tasks: each head learns from a teacher of its own, and is an output of what ships."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import safetensors.torch
import torch
from torch.nn.functional import cross_entropy

import edgekd
from edgekd.data.digits import load
from edgekd.distill.objective import ForwardPass, Numbered, Objective, TaskObjective
from edgekd.errors import ModelError, RecipeError
from edgekd.models.resnet import resnet8
from edgekd.recipe import load_recipe
from edgekd.recipe.losses import Loss
from edgekd.tasks.classify import Classify
from edgekd.tasks.protocol import Labels
from edgekd.tasks.rows import OneRow
from tests.builders.measuring import SHORT
from tests.builders.recipes import RECIPE

DIGITS = "python:tests.check.test_tasks:digits"
TASK = 'tasks=[{{name="parity", label="parity", teacher={{model="edgekd:resnet8", weights="{weights}", args={{width=8}}}}}}]'


def digits(split: str, label: str = "digit") -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], tuple[str, ...]]:
    """The scans with the digit's value, or with whether it is odd."""
    images, labels, classes = load(split)
    return (images, labels % 2, ("even", "odd")) if label == "parity" else (images, labels, classes)


def test_a_task_adds_its_own_losses_by_its_weight() -> None:
    """total = first task's + weight · second's, each on its own columns of the logits and its own labels."""
    torch.manual_seed(0)
    z, z_t, z_t2 = torch.randn(6, 5), torch.randn(6, 3), torch.randn(6, 2)
    labels = [torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 0, 1, 0, 1])]
    ones = torch.ones(6)

    def seen(z: torch.Tensor, z_t: torch.Tensor, labels: torch.Tensor) -> ForwardPass:
        batch, both = Numbered(np.arange(6), torch.arange(6), 0), Labels(labels, labels, ones)
        return ForwardPass.of(OneRow(), batch, (torch.zeros(6),), both, z, z_t[None], {}, {})

    shown = {"": seen(z[:, :3], z_t, labels[0]), "parity": seen(z[:, 3:], z_t2, labels[1])}
    losses = (Loss(method="mse", weight=0.5),)
    total, terms = Objective(losses, 0.1, {"": 1.0, "parity": 2.0}, dict.fromkeys(shown, Classify(()).label_loss))(
        0.0, shown
    )
    by_hand = [
        0.1 * cross_entropy(own, label) + 0.5 * TaskObjective(losses, 0.0)(0.0, seen(own, theirs, label))[1]["mse"]
        for own, theirs, label in ((z[:, :3], z_t, labels[0]), (z[:, 3:], z_t2, labels[1]))
    ]
    torch.testing.assert_close(total, by_hand[0] + 2.0 * by_hand[1])
    assert set(terms) == {"labels", "mse", "parity/labels", "parity/mse"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that tells odd from even."""
    torch.manual_seed(0)
    images, labels, _ = digits("train", "parity")
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(0.31).div(0.38), torch.from_numpy(labels)
    model = resnet8(2, 1, width=8).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    file = tmp_path_factory.mktemp("teacher") / "parity.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    return file


def build(folder: Path, weights: Path, *overrides: str) -> edgekd.Report:
    (folder / "edgekd.toml").write_text(RECIPE)
    given = [f"data.train={DIGITS}", f"data.test={DIGITS}", "teacher.train_epochs=3", TASK.format(weights=weights)]
    recipe = load_recipe(folder, [*given, *overrides])
    places = {"output": folder / "build", "cache": folder / "cache"}
    return edgekd.build(recipe, "x86-cpu", ask=lambda question: True, timing=SHORT, **places)


def test_each_task_is_learnt_and_is_an_output_of_what_ships(tmp_path: Path, weights: Path) -> None:
    report = build(
        tmp_path, weights, "distill.epochs=6", "quantize.mode=qat", "quantize.epochs=1", "budget.max_drop_from_fp32=100"
    )
    assert {"loss/kd", "loss/parity/kd", "loss/parity/labels", "holdout/parity"} <= set(report.curves[-1])
    assert "loss/parity/kd" in report.quantization_curves[-1]
    found = next(check.found for check in report.checks if check.name == "task parity")
    assert float(found.split()[1]) > 75  # of which 50 is chance: the head learnt something of its own
    assert report.student.value > 50  # of which 10 is chance
    bundle = next((tmp_path / "build").glob("*/x86-cpu"))
    outputs = {
        output.name: output.type.tensor_type.shape.dim[1].dim_value
        for output in onnx.load(bundle / "model.onnx").graph.output
    }
    assert outputs == {"logits": 10, "parity": 2}
    with np.load(bundle / "golden.npz") as golden:
        assert golden["outputs"].shape == (16, 10) and golden["outputs.parity"].shape == (16, 2)
    for command in ([sys.executable, "run.py", "--verify"], [sys.executable, "-m", "edgekd.cli", "verify", "."]):
        done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ('distill.losses=[{method="rkd", layers="auto"}]', r"losses\.0\.method  rkd .*take kd"),
        ('distill.scheme="dml"', r"losses\.0\.method  dml .*take kd"),
        ("distill.generations=1", r"distill\.generations .*\[\[tasks\]\]"),
        ("student.heads={parity=2}", r"student\.heads .*have: model"),
        ('tasks.0.name="logits"', r"tasks\.0\.name  names logits"),
    ],
)
def test_what_does_not_go_with_tasks_is_told_before_training(
    tmp_path: Path, weights: Path, override: str, text: str
) -> None:
    with pytest.raises(RecipeError, match=text):
        build(tmp_path, weights, override)


def test_a_teacher_of_other_classes_than_its_task_is_told_before_training(tmp_path: Path) -> None:
    file = tmp_path / "three.safetensors"
    safetensors.torch.save_file(resnet8(3, 1, width=8).state_dict(), file)
    with pytest.raises(ModelError, match=r"task parity: .* 3 classes, .*'parity' has 2"):
        build(tmp_path, file, "tasks.0.teacher.args={num_classes=3, width=8}")
