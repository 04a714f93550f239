"""A model in a form that no one reads: what the user is told to write, beside all other mistakes and their lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import edgekd
from edgekd.errors import RecipeError
from edgekd.recipe.forms import form_problem
from tests.builders.recipes import RECIPE

TRAINS = "it cannot be trained: give edgekd:NAME, timm:NAME or python:FILE.py:FUNCTION"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("teacher.onnx", 'write "onnx:teacher.onnx"'),
        ("sub/teacher.pt2", 'write "exported:sub/teacher.pt2"'),
        ("exported:teacher.onnx", 'write "onnx:teacher.onnx"'),
        ("onnx:teacher.pt2", 'write "exported:teacher.pt2"'),
        ("nets.py", 'write "python:nets.py:FUNCTION", the function that makes the network (it has build, Net)'),
        ("python:nets.py", 'write "python:nets.py:FUNCTION" (it has build, Net)'),
        ("python:nets", "write python:FILE.py:FUNCTION or python:module:function"),
        ("model.pt", 'and weights = "model.pt"'),
        ("exported:model.pth", 'and weights = "model.pth"'),
        ("model.engine", "give the ONNX file that it was built from"),
        ("model.tflite", "convert it to ONNX"),
        ("onx:teacher", 'did you mean "onnx:teacher"?'),
        ("torchvision.models:resnet18", 'is "python:torchvision.models:resnet18"'),
        ("nothing", "write one of these forms: edgekd:NAME, timm:NAME, python:FILE.py:FUNCTION, onnx:FILE.onnx"),
        ("edgekd:", "names no model; write edgekd:NAME"),
    ],
)  # fmt: skip
def test_a_model_in_an_unknown_form_is_told_with_what_to_write(given: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("raise SystemExit  # it is read, not run\ndef build(): ...\nclass Net: ...\n")
    problem = form_problem(given, trains=False, folder=tmp_path)
    assert problem is not None and told in problem and f'"{given}"' in problem


@pytest.mark.parametrize(
    "given", ["edgekd:resnet8", "timm:x", "python:nets:f", "python:a.py:f", "onnx:a", "exported:a"]
)
def test_a_known_form_is_no_problem_for_a_teacher(given: str, tmp_path: Path) -> None:
    assert form_problem(given, trains=False, folder=tmp_path) is None


@pytest.mark.parametrize("given", ["onnx:a.onnx", "exported:a.pt2", "a.onnx"])
def test_a_graph_is_no_student(given: str, tmp_path: Path) -> None:
    problem = form_problem(given, trains=True, folder=tmp_path)
    assert problem is not None and "cannot be trained" in problem and "python:FILE.py:FUNCTION" in problem


def refusal(folder: Path, *overrides: str) -> dict[str, str]:
    """The refusal of a build as place -> text. Nothing is decoded: the folder of the cache stays away."""
    with pytest.raises(RecipeError) as caught:
        edgekd.build(folder, "x86-cpu", overrides=overrides, output=folder / "build", cache=folder / "cache")
    rows = [row.strip().split("  ", 1) for row in str(caught.value).splitlines()[1:]]
    assert not list(folder.glob("cache/decode*"))
    return {place: text.strip() for place, text in rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "edgekd.toml").write_text(RECIPE.replace("train_epochs = 1", 'weights = "none.pt"'))
    return tmp_path


def line(folder: Path, text: str) -> int:
    return (folder / "edgekd.toml").read_text().splitlines().index(text) + 1


def test_a_wrong_name_a_missing_file_and_an_unknown_form_are_told_together_with_their_lines(folder: Path) -> None:
    text = (folder / "edgekd.toml").read_text()
    head, student = text.split("[student]")
    head = head.replace("edgekd:resnet8", "nets.onnx")
    (folder / "edgekd.toml").write_text(f"{head}[student]{student.replace('edgekd:resnet8', 'edgekd:resnet9')}")
    told = refusal(folder)
    teacher, weights = line(folder, 'model = "nets.onnx"'), line(folder, 'weights = "none.pt"')
    student_at = line(folder, 'model = "edgekd:resnet9"')
    assert set(told) == {
        f"edgekd.toml:{teacher} teacher.model", f"edgekd.toml:{weights} teacher.weights", f"edgekd.toml:{student_at} student.model",
    }  # fmt: skip
    assert told[f"edgekd.toml:{teacher} teacher.model"] == '"nets.onnx" given; write "onnx:nets.onnx"'
    assert "none.pt does not exist" in told[f"edgekd.toml:{weights} teacher.weights"]
    assert "Did you mean resnet8?" in told[f"edgekd.toml:{student_at} student.model"]


def test_an_unknown_form_stands_beside_an_unknown_key(folder: Path) -> None:
    told = refusal(folder, "teacher.model=a.onnx", "distill.epoch=3")
    assert told["--set teacher.model"] == '"a.onnx" given; write "onnx:a.onnx"'
    assert "unknown key 'epoch'" in told["--set distill.epoch"]


def test_weights_that_cannot_be_read_are_told_before_anything_is_decoded(folder: Path) -> None:
    torch.save({"epoch": 3}, folder / "none.pt")
    told = refusal(folder, "teacher.model=a.onnx")
    at = line(folder, 'weights = "none.pt"')
    assert "none.pt holds a dict of epoch, not a state dict" in told[f"edgekd.toml:{at} teacher.weights"]
    assert told["--set teacher.model"] == '"a.onnx" given; write "onnx:a.onnx"'


def test_a_bare_name_of_a_student_is_told_with_its_form(folder: Path) -> None:
    torch.save({"w": torch.zeros(1)}, folder / "none.pt")
    assert refusal(folder, "student.model=resnet8") == {
        "--set student.model": 'it is a student of edgekd: write "edgekd:resnet8"'
    }


def test_a_wrong_function_and_a_wrong_argument_are_told_before_anything_is_decoded(folder: Path) -> None:
    torch.save({"w": torch.zeros(1)}, folder / "none.pt")
    (folder / "nets.py").write_text("def build(num_classes): ...\n")
    told = refusal(folder, f"teacher.model=python:{folder}/nets.py:biuld", "student.args={ widht = 4 }")
    assert "has no function biuld; have: build. Did you mean build?" in told["--set teacher.model"]
    (place,) = set(told) - {"--set teacher.model"}
    assert "takes no argument 'widht'; have: " in told[place] and told[place].endswith("Did you mean width?")
