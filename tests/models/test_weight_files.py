"""Files of weights as trainers write them are read without running anything of them, and the form is told."""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekd.errors import ModelError
from edgekd.models import load_model
from edgekd.models.resnet import resnet8
from edgekd.models.weight_files import read_weights, without_prefix
from edgekd.recipe import Model


def trained() -> nn.Module:
    torch.manual_seed(7)
    return resnet8(num_classes=3, in_channels=1, width=4).eval()


STATE = trained().state_dict()


def under(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in STATE.items()}


def loaded(path: Path) -> tuple[nn.Module, list[str]]:
    told = list[str]()
    reference = Model(model="edgekd:resnet8", weights=str(path), args={"width": 4})
    return load_model(reference, num_classes=3, in_channels=1, tell=told.append), told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (STATE, ""),
        ({"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}}, "reads the 'state_dict' of a checkpoint"),
        ({"model": STATE, "epoch": 3}, "reads the 'model' of a checkpoint"),
        ({"model_state_dict": STATE}, "reads the 'model_state_dict' of a checkpoint"),
        (under("module."), "reads names without 'module.'"),
        (
            {"state_dict": under("model.") | {"loss.centers": torch.zeros(2)}, "pytorch-lightning_version": "2.4"},
            "reads the 'state_dict' of a checkpoint with names without 'model.' (1 tensors without it are not read)",
        ),
        (
            {"model": under("module._orig_mod.")},
            "reads the 'model' of a checkpoint with names without 'module._orig_mod.'",
        ),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_found_in_what_trainers_save(content: object, told: str, zipped: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    model, lines = loaded(tmp_path / "w.pth")
    assert lines == ([f"{told} from {tmp_path / 'w.pth'}"] if told else [])
    for name, value in model.state_dict().items():
        assert torch.equal(value, STATE[name])


def test_safetensors_with_a_prefix_are_read_too(tmp_path: Path) -> None:
    save_file(under("module."), tmp_path / "w.safetensors")
    assert torch.equal(loaded(tmp_path / "w.safetensors")[0].state_dict()["fc.weight"], STATE["fc.weight"])


def test_a_network_whose_own_names_begin_so_keeps_them() -> None:
    own = {"model.a": torch.zeros(1), "model.b": torch.zeros(1)}
    assert without_prefix(own, own) == (own, "")
    wrapped = {f"module.{name}": value for name, value in own.items()}
    assert without_prefix(wrapped, own) == (own, "names without 'module.'")


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], {"state_dict": {"a": 1}}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_told_with_what_it_holds(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    text = refused(tmp_path / "w.pt")
    assert f"holds a {type(content).__name__}" in text and "torch.save(model.state_dict(), 'weights.pt')" in text


def test_a_checkpoint_with_other_objects_names_the_first(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pt")
    text = refused(tmp_path / "w.pt")
    assert "more than tensors (argparse.Namespace)" in text and "could run any code" in text
    assert "torch.load('w.pt', weights_only=False)['state_dict']" in text


def commands_of(text: str, start: str) -> str:
    """The first call in a message that begins with `start`, to its closing bracket."""
    at = text.index(start)
    depth = 0
    for end, letter in enumerate(text[at:], at):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and depth == 0:
            return text[at : end + 1]
    raise AssertionError(text)


def run_in(folder: Path, code: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", f"import torch\n{code}"], cwd=folder, check=True)


def test_a_pickled_module_is_refused_with_a_line_that_writes_its_weights(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "whole.pt")
    text = refused(tmp_path / "whole.pt")
    assert "a whole pickled object (edgekd.models.resnet.ResNet)" in text
    run_in(tmp_path, commands_of(text, "torch.save("))
    assert torch.equal(loaded(tmp_path / "weights.pt")[0].state_dict()["fc.weight"], STATE["fc.weight"])


def test_a_pickled_module_of_torch_s_own_is_refused_with_a_line_that_writes_its_weights(tmp_path: Path) -> None:
    """Its first class is torch's, as the classes of tensors are."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 3))
    torch.save(network, tmp_path / "whole.pt")
    text = refused(tmp_path / "whole.pt")
    assert "a whole pickled object (torch.nn.modules.container.Sequential)" in text
    run_in(tmp_path, commands_of(text, "torch.save("))
    written = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert torch.equal(written["0.weight"], network[0].weight)


def test_a_torchscript_file_is_refused_with_lines_that_write_its_weights_and_its_graph(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch call TorchScript deprecated
        torch.jit.save(torch.jit.trace(trained(), torch.zeros(1, 1, 8, 8)), tmp_path / "script.pt")
    text = refused(tmp_path / "script.pt")
    assert "is a TorchScript program" in text
    export = commands_of(text, "torch.onnx.export(")
    run_in(tmp_path, f"{commands_of(text, 'torch.save(')}\nx = torch.zeros(1, 1, 8, 8)\n{export}")
    assert torch.equal(loaded(tmp_path / "weights.pt")[0].state_dict()["fc.weight"], STATE["fc.weight"])
    x = torch.rand(3, 1, 8, 8)
    graph = load_model(Model(model=f"onnx:{tmp_path / 'teacher.onnx'}"), num_classes=3)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), trained()(x), rtol=1e-4, atol=1e-5)


def test_a_program_of_torch_export_is_no_file_of_weights(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(trained(), (torch.zeros(2, 1, 8, 8),)), tmp_path / "t.pt2")
    assert "write model = 'exported:t.pt2'" in refused(tmp_path / "t.pt2")
