"""A loss from the user's own file: what it is given, how its options are checked, and how its mistakes are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import edgekd
from edgekd.check.own_losses import try_own
from edgekd.distill.methods import METHODS
from edgekd.distill.objective import ForwardPass, Numbered, Objective, TaskObjective
from edgekd.distill.own import method_of, own_method
from edgekd.errors import ModelError, RecipeError
from edgekd.recipe import load_recipe
from edgekd.recipe.losses import Loss
from edgekd.tasks.protocol import Labels
from edgekd.tasks.rows import OneRow
from tests.builders.recipes import RECIPE, TINY

Z_S = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [3.0, 1.0, 1.0], [0.0, 0.0, 4.0]])
Z_T = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 2.0, 4.0]])
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file with a function `mine`, and gives the reference to it."""

    def written(text: str) -> str:
        (tmp_path / "losses.py").write_text(text)
        return f"python:{tmp_path}/losses.py:mine"

    return written


def passed(**features: dict[str, Tensor]) -> ForwardPass:
    labels = torch.tensor([0, 1, 2, 2])
    batch = Numbered(torch.arange(4).numpy(), torch.arange(4), 0)
    both = Labels(labels, labels, torch.ones(4))
    f_s, f_t = features.get("f_s", {}), features.get("f_t", {})
    return ForwardPass.of(OneRow(), batch, (torch.zeros(4),), both, Z_S.clone().requires_grad_(), Z_T[None], f_s, f_t)


def value(reference: str, forward: ForwardPass | None = None, **settings: Any) -> Tensor:
    objective = TaskObjective([Loss(method=reference, **settings)], 0.0)
    total, _ = objective(0.0, forward or passed())
    return total


def test_a_function_gets_what_its_arguments_name(write: Write) -> None:
    """The squared distance of rows 0 to 3 is 1, 1, 4, 4; of the first class alone the labels choose row 0."""
    reference = write("def mine(z_t, labels, z_s):\n    return (z_s - z_t).square().sum(1)[labels == 0].mean()\n")
    assert value(reference).item() == pytest.approx(1.0)
    reference = write("def mine(z_t, epoch, z_s):\n    return (z_s - z_t).square().sum(1).mean() + epoch\n")
    edgekd.base.references.forget_changed()
    assert value(reference).item() == pytest.approx(2.5)


def test_options_are_the_functions_keywords_and_the_weight_is_the_recipes(write: Write) -> None:
    reference = write("def mine(z_s, z_t, *, power=1):\n    return ((z_s - z_t).abs() ** power).sum(1).mean()\n")
    assert value(reference, power=2.0, weight=10.0).item() == pytest.approx(10 * (1 + 1 + 4 + 4) / 4)


def test_a_module_with_weights_of_its_own_is_trained_with_the_student(write: Write) -> None:
    text = (
        "import torch\nfrom torch import nn\nfrom edgekd.distill.methods.declare import method\n\n"
        "@method(rows=('values',))\nclass mine(nn.Module):\n"
        "    def __init__(self, *, start: float = 3.0):\n"
        "        super().__init__()\n        self.scale = nn.Parameter(torch.tensor(start))\n"
        "    def forward(self, z_s, z_t):\n        return (self.scale * z_s - z_t).mean()\n"
    )
    reference = write(text)
    objective = TaskObjective([Loss(method=reference, start=2.0)], 0.0)
    (scale,) = objective.parameters()
    total, values = objective(0.0, passed())
    total.backward()
    assert list(values) == ["mine"] and scale.grad is not None
    assert scale.grad.item() == pytest.approx(Z_S.mean().item())
    assert own_method(reference).rows == ("values",) and own_method(reference).call is not None


def test_features_are_those_of_the_layers(write: Write) -> None:
    reference = write("def mine(f_s, f_t):\n    return sum((a - b).square().mean() for a, b in zip(f_s, f_t))\n")
    forward = passed(f_s={"a": torch.ones(4, 2, requires_grad=True)}, f_t={"b": torch.full((4, 2), 3.0)})
    assert value(reference, forward, layers={"a": "b"}).item() == pytest.approx(4.0)


def test_an_own_loss_computes_in_float32_under_autocast_and_sends_no_gradient_to_the_teacher(write: Write) -> None:
    reference = write(
        "def mine(z_s, f_s, f_t):\n    assert z_s.dtype == f_t[0].dtype == (f_s[0] @ f_s[0].T).dtype\n"
        "    assert str(z_s.dtype) == 'torch.float32'\n    return (f_s[0] - f_t[0]).mean()\n"
    )
    ours, theirs = torch.ones(4, 2, requires_grad=True), torch.ones(4, 2, requires_grad=True)
    forward = passed(f_s={"a": ours.bfloat16()}, f_t={"b": theirs.bfloat16()})
    with torch.autocast("cpu", torch.bfloat16):
        value(reference, forward, layers={"a": "b"}).backward()
    assert ours.grad is not None and theirs.grad is None


def test_two_terms_of_one_function_have_names_and_places_of_their_own(write: Write, tmp_path: Path) -> None:
    reference = write("def mine(z_s):\n    return z_s.mean()\n")
    losses = [Loss(method=reference), Loss(method="kd"), Loss(method=reference, weight=2.0)]
    objective = Objective(losses, 0.0, {"": 1.0}, {"": lambda outputs, labels: outputs.sum()})
    _, values = objective(0.0, {"": passed()})
    assert list(values) == ["mine_0", "kd", "mine_2"]
    assert objective.own_places == dict.fromkeys(["mine_0", "mine_2"], f"{tmp_path}/losses.py, line 1")


def test_a_built_in_method_is_found_by_its_name() -> None:
    assert method_of("kd") is METHODS["kd"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def mine(logits, z_s): ...", "it asks for logits, which is not given; possible are z_s, z_t, z_ts, labels"),
        ("def mine(z_s, z_t, alpha=0.5): ...", "alpha has a default, so it is an option: write * before it, as (z_s, z_t, *, alpha=...)"),
        ("def mine(z_t, labels): ...", "reads nothing of the student; ask for z_s"),
        ("def mine(z_s, *, weight=1.0): ...", "its option weight is a key of every loss"),
        ("import torch\ndef mine(z_s, *, where: torch.Tensor): ...", "its option where is a <class 'torch.Tensor'>"),
        ("class mine:\n  def forward(self): ...", "a loss is a function, or an nn.Module with a forward of its own"),
    ],
)  # fmt: skip
def test_a_signature_that_cannot_be_a_loss_is_refused_with_its_line(text: str, told: str, write: Write) -> None:
    with pytest.raises(ModelError) as caught:
        own_method(write(text))
    assert told in str(caught.value) and f"losses.py, line {text.count(chr(10)) + 1})" in str(caught.value)


def tried(reference: str) -> None:
    (term,) = TaskObjective([Loss(method=reference)], 0.0).terms
    try_own(term, passed())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise KeyError('boom')", "loss 'mine' fails in {file}, line 4: KeyError: 'boom'"),
        ("import sys\n    sys.exit(3)", "loss 'mine' fails in {file}, line 5: SystemExit: 3"),
        ("return z_s @ z_t", "loss 'mine' fails in {file}, line 4: RuntimeError: "),
        ("return (z_s - z_t).square()", "loss 'mine' ({file}, line 3) gives a tensor of [4, 3]; return one number"),
        ("return 1.5", "gives a float; return one number as a tensor"),
        ("return None", "gives a NoneType"),
        ("return (z_s - z_t).square().mean().detach()", "({file}, line 3) has no gradient to the student"),
        (
            "return (z_s.detach() - z_t).abs().mean().log() * 0 + z_s.log().mean()",
            "({file}, line 3) gives nan on random",
        ),
    ],
)
def test_a_mistake_in_a_loss_is_told_with_file_and_line_before_training(
    body: str, told: str, write: Write, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        tried(write(f"import torch\n\ndef mine(z_s, z_t):\n    {body}\n"))
    assert told.format(file=tmp_path / "losses.py") in str(caught.value) and "\n" not in str(caught.value)


def test_a_loss_that_equal_rows_make_nan_is_tried_on_rows_that_differ(write: Write) -> None:
    """Blank samples give equal rows, on which a standardised loss divides by 0."""
    tried(write("def mine(z_s, z_t):\n    return ((z_s - z_t.mean(0)) / z_t.std(0)).square().mean()\n"))


def recipe(folder: Path, loss: str, text: str = RECIPE) -> Path:
    kept = text.replace("losses = []\nlabel_weight = 1.0\n", "").replace(
        "views = 1\n", f"views = 1\nlosses = [{loss}]\n"
    )
    (folder / "edgekd.toml").write_text(kept)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises((RecipeError, ModelError)) as caught:
        edgekd.build(folder, "x86-cpu", output=folder / "build", cache=folder / "cache")
    return str(caught.value)


def test_options_are_checked_by_the_signature_with_the_line_in_the_recipe(write: Write, tmp_path: Path) -> None:
    write("def mine(z_s, z_t, *, temperature: float, sharp=False):\n    return (z_s - z_t).mean()\n")
    loss = '{ method = "python:losses.py:mine", sharp = 2, temprature = 4 }'
    at = recipe(tmp_path, loss).joinpath("edgekd.toml").read_text().splitlines().index(f"losses = [{loss}]") + 1
    place = f"edgekd.toml:{at} distill.losses.0"
    text = refused(tmp_path)
    assert "3 mistakes" in text
    assert f"{place}.sharp " in text and "2 given; Input should be a valid boolean" in text.replace(
        "should", "Input should"
    )
    assert "unknown key 'temprature' of method mine; have: temperature, sharp, method, weight" in text
    assert f"{place}.temperature " in text and "missing; method mine requires it" in text


def test_a_missing_file_or_function_is_a_mistake_of_the_recipe(write: Write, tmp_path: Path) -> None:
    text = refused(recipe(tmp_path, '{ method = "python:gone.py:mine" }'))
    assert "distill.losses.0.method" in text and f"no such file: {tmp_path}/gone.py" in text
    write("def mine(z_s, z_t): ...\n")
    text = refused(recipe(tmp_path, '{ method = "python:losses.py:mien" }'))
    assert "has no function mien; have: mine. Did you mean mine?" in text
    assert "a function of a file is python:FILE.py:FUNCTION" in refused(
        recipe(tmp_path, '{ method = "losses.py:mine" }')
    )


def test_a_loss_that_becomes_nan_in_training_is_told_with_its_file_and_line(write: Write, tmp_path: Path) -> None:
    write("def mine(z_s, epoch):\n    return z_s.mean() * (float('nan') if epoch > 0 else 1.0)\n")
    (tmp_path / "students.py").write_text(
        "from torch import nn\ndef plain(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    text = refused(
        recipe(
            tmp_path,
            '{ method = "python:losses.py:mine" }',
            TINY.replace("python:students.py", f"python:{tmp_path}/students.py"),
        )
    )
    assert "the loss became nan in epoch 1" in text and f"mine nan ({tmp_path}/losses.py, line 1)" in text


def test_a_loss_that_reads_a_teacher_is_refused_without_one(write: Write, tmp_path: Path) -> None:
    write("def mine(z_s, z_t):\n    return (z_s - z_t).mean()\n")
    text = refused(recipe(tmp_path, '{ method = "python:losses.py:mine" }', TINY))
    assert "teacher" in text and "missing, and mine reads one: write [teacher] with a model" in text


def test_a_recipe_finds_a_loss_beside_itself_from_anywhere(write: Write, tmp_path: Path, monkeypatch: Any) -> None:
    write("def mine(z_s, z_t): ...\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    opened = load_recipe(recipe(tmp_path, '{ method = "python:losses.py:mine" }'), (), METHODS, own_method)
    assert opened.located().distill.losses[0].method == f"python:{tmp_path}/losses.py:mine"
