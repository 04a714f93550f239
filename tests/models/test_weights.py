"""A student begins with as much of a file as fits, and says what; a model that is used as it is takes the whole file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import edgekd
from edgekd.errors import ModelError
from edgekd.models import load_model
from edgekd.models.resnet import resnet8
from edgekd.models.weights import begin_with, load_weights
from edgekd.recipe import Model, load_recipe
from tests.builders.measuring import SHORT
from tests.builders.recipes import RECIPE


class Small(nn.Module):
    def __init__(self, channels: int = 3, classes: int = 10, head: str = "head") -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, 4, 1), nn.BatchNorm2d(4)
        self.add_module(head, nn.Linear(4, classes))


def test_tensors_of_the_same_shape_are_taken_and_the_others_named_with_both_shapes() -> None:
    torch.manual_seed(0)
    model, file = Small(), Small(channels=1, classes=1000).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told = begin_with(model, file, "w.pt")
    assert told == (
        "begins with 5 of 8 tensors of w.pt; its own first values keep conv.weight ([4, 3, 1, 1], in the file [4, 1, 1, 1]), "
        "head.weight ([10, 4], in the file [1000, 4]), head.bias ([10], in the file [1000])"
    )
    after = model.state_dict()
    assert torch.equal(after["conv.bias"], file["conv.bias"])
    for name in ("conv.weight", "head.weight", "head.bias"):
        assert torch.equal(after[name], before[name])


def test_names_that_one_side_lacks_are_told() -> None:
    told = begin_with(Small(), Small(head="classifier").state_dict(), "w.pt")
    assert told == (
        "begins with 6 of 8 tensors of w.pt; its own first values keep head.weight (not in the file), head.bias (not in the file); "
        "the file's classifier.weight, classifier.bias are not read"
    )


def test_a_file_that_fits_wholly_is_taken_without_a_word() -> None:
    model, file = Small(), Small().state_dict()
    del file["bn.num_batches_tracked"]  # a counter that old files lack
    assert begin_with(model, file, "w.pt") is None
    assert torch.equal(model.head.weight, file["head.weight"])


def test_a_file_of_which_nothing_fits_is_refused_with_both_sets_of_names() -> None:
    """Both count their batches under one name, which is no weight."""
    other = nn.ModuleDict({"bn": nn.BatchNorm2d(9), "stem": nn.Linear(2, 3)}).state_dict()
    with pytest.raises(ModelError) as told:
        begin_with(Small(), other, "w.pt")
    assert str(told.value) == (
        "nothing of w.pt fits the model: the file has bn.weight [9], bn.bias [9], bn.running_mean [9], bn.running_var [9], stem.weight "
        "[3, 2] and 1 more; the model has conv.weight [4, 3, 1, 1], conv.bias [4], bn.weight [4], bn.bias [4], bn.running_mean [4] and 3 "
        "more. Give a file of this network, or leave weights out"
    )


def test_a_model_that_is_used_as_it_is_takes_the_whole_file_or_none_of_it(tmp_path: Path) -> None:
    save_file(resnet8(num_classes=7).state_dict(), tmp_path / "w.safetensors")
    reference, told = Model(model="edgekd:resnet8", weights=str(tmp_path / "w.safetensors")), list[str]()
    with pytest.raises(ModelError, match=r"fc.weight is \[7, 64\], the model's is \[10, 64\]"):
        load_model(reference, num_classes=10, in_channels=3)
    load_model(reference, num_classes=10, in_channels=3, tell=told.append, partly=True)
    assert len(told) == 1 and "fc.weight ([10, 64], in the file [7, 64])" in told[0]
    with pytest.raises(ModelError, match=r"missing conv\.weight"):
        load_weights(Small(), {}, "w.pt")


def test_a_student_trains_on_from_weights_of_other_classes_and_colours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step is too small to change a weight. Here the student answers through the teacher's classifier (`simkd`)."""
    torch.manual_seed(5)
    file = resnet8(num_classes=1000, in_channels=3, width=4).state_dict()
    save_file(file, tmp_path / "w.safetensors")
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    overrides = [
        f"student.weights={tmp_path / 'w.safetensors'}", "quantize.mode=none", "distill.optimizer.lr=1e-12", "distill.precision=fp32",
        'distill.losses=[{method="simkd", layers="auto"}]', "distill.label_weight=0",
    ]  # fmt: skip
    places = {"output": tmp_path / "build", "cache": tmp_path / "cache"}
    edgekd.build(load_recipe(tmp_path, overrides), "x86-cpu", ask=lambda question: True, timing=SHORT, **places)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("the student begins with 36 of 39 tensors of") == 1
    assert "stem.weight ([4, 1, 3, 3], in the file [4, 3, 3, 3])" in told
    (trained,) = (tmp_path / "cache").glob("distill-*/student.safetensors")
    torch.testing.assert_close(
        load_file(trained)["features.layer1.0.conv1.weight"], file["layer1.0.conv1.weight"], rtol=0, atol=1e-6
    )
