"""A student that could not learn, or could not become what is asked, is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekd
from edgekd.errors import EdgekdError, ExportError, ModelError, QuantizationError, UnknownLayerError
from edgekd.recipe import load_recipe
from tests.builders.measuring import SHORT
from tests.builders.recipes import TINY

STUDENTS = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))

class Auxiliary(Plain):
    def forward(self, x):
        y = super().forward(x)
        return (y, y) if self.training else y

class Random(Plain):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x))

class Mixes(Plain):
    def forward(self, x):
        y = super().forward(x)
        return y - y.mean(0)

class Untranslated(Plain):
    def forward(self, x):
        return torch.linalg.matrix_exp(super().forward(x)[:, :, None] * torch.eye(10))[:, 0]

class Branches(Plain):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else -y

class Roots(Plain):
    def forward(self, x):
        return super().forward(x.sqrt())

class Codes(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.codes = nn.Embedding(256, 1)

    def forward(self, x):
        return super().forward(self.codes((x * 255).long())[:, 0].permute(0, 3, 1, 2))

class Determinants(Plain):
    def forward(self, x):
        y = super().forward(x)
        return y + torch.linalg.det(x[:, 0, :4, :4])[:, None]

def frozen(num_classes):
    return Plain(num_classes).requires_grad_(False)

def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def begun(num_classes):
    model = lazy(num_classes)
    model(torch.zeros(1, 1, 8, 8))
    return model
"""


def build(folder: Path, student: str, *overrides: str) -> edgekd.Report:
    (folder / "students.py").write_text(STUDENTS)
    (folder / "edgekd.toml").write_text(TINY)
    recipe = load_recipe(folder, [f"student.model=python:{folder / 'students.py'}:{student}", *overrides])
    return edgekd.build(recipe, "jetson-xavier-nx", output=folder / "build", cache=folder / "cache", timing=SHORT)


@pytest.mark.parametrize(
    ("student", "error", "message"),
    [
        ("frozen", ModelError, "student .*requires_grad is False"),
        ("lazy", ModelError, ":lazy' .*run it once"),
        ("Auxiliary", ModelError, r"student .*tuple of 2.*logits \[2, 10\] in evaluation"),
        ("Random", QuantizationError, r"Random .*training=self\.training"),
        ("Mixes", QuantizationError, "Mixes.*running statistics"),
        ("Untranslated", ExportError, r"operator aten\.linalg_matrix_exp"),
        ("Branches", ExportError, r"students\.py:\d+ in forward"),
    ],
)
def test_what_cannot_ship_is_refused_before_it_is_trained(
    student: str, error: type[EdgekdError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as told:
        build(tmp_path, student, "quantize.mode=ptq")
    assert len(str(told.value).splitlines()) == 1
    assert not list((tmp_path / "cache").glob("*distill*")) and not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("student", "message"), [("Random", r"training=self\.training"), ("Mixes", "running statistics")]
)
def test_what_is_no_function_of_a_sample_is_refused_in_float_too(student: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=message):
        build(tmp_path, student, "quantize.mode=none")
    assert not list((tmp_path / "cache").glob("*distill*"))


def test_a_layer_that_keep_float_does_not_find_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(UnknownLayerError, match=r"keep_float = 'hed' .*Did you mean head"):
        build(tmp_path, "Plain", "quantize.mode=ptq", 'quantize.keep_float=["hed"]')
    assert not list((tmp_path / "cache").glob("*distill*"))


@pytest.mark.parametrize("student", ["Roots", "Codes"])
def test_a_student_that_takes_what_pictures_hold_alone_passes_the_rehearsal(student: str, tmp_path: Path) -> None:
    report = build(tmp_path, student, "quantize.mode=ptq", "data.mean=[0.0]", "data.std=[1.0]")
    assert "int8" in {candidate.name for candidate in report.candidates}


def test_a_student_that_was_run_once_is_no_lazy_one(tmp_path: Path) -> None:
    assert build(tmp_path, "begun").chosen.name in ("fp32", "fp16")


def test_what_the_target_would_refuse_is_told_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = build(tmp_path, "Determinants", "export.opset=17")
    told = capsys.readouterr().err.replace("\n", " ")
    assert "would refuse this student" in told and "Det is not" in " ".join(told.split())
    assert told.index("would refuse this student") < told.index("distil")
    assert not report.ok
