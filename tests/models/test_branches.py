"""Branches are folded into one convolution on the way to a device, and nowhere else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import ExportError, QuantizationError
from edgekd.export.to_onnx import to_onnx
from edgekd.models import BUILT_IN
from edgekd.models.branches import Branched
from edgekd.models.cut import before
from edgekd.models.mobileone import MobileOneBlock
from edgekd.models.plain import plain_copy
from edgekd.models.repvgg import RepVGGBlock
from edgekd.quantize import prepare
from edgekd.quantize.operators import aten
from tests.builders.networks import seeded
from tests.builders.schemes import TENSORRT

BLOCKS = {
    "repvgg, the shape stays": lambda: RepVGGBlock(8, 8, 1),
    "repvgg, another shape": lambda: RepVGGBlock(8, 12, 2),
    "mobileone, depthwise": lambda: MobileOneBlock(8, 8, 3, 1, 8, 4),
    "mobileone, depthwise with a stride": lambda: MobileOneBlock(8, 8, 3, 2, 8, 2),
    "mobileone, 1x1": lambda: MobileOneBlock(8, 8, 1, 1, 1, 3),
    "groups of two": lambda: MobileOneBlock(8, 8, 3, 1, 4, 1),
}


def kinds(model: nn.Module) -> Counter[str]:
    return Counter(type(module).__name__ for module in model.modules() if not [*module.children()])


@pytest.mark.parametrize("block", BLOCKS)
def test_a_folded_block_computes_the_sum_of_its_branches(block: str) -> None:
    torch.manual_seed(0)
    model, x = seeded(BLOCKS[block]()), torch.randn(2, 8, 7, 7)
    folded = plain_copy(model)
    assert kinds(folded) == {"Conv2d": 1, "ReLU": 1}
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "convolutions"), [("repvgg-a0", 22), ("mobileone-s0", 43)])
def test_a_folded_student_is_plain_and_computes_the_same_while_the_student_keeps_its_branches(
    name: str, convolutions: int
) -> None:
    """In float64, because 43 layers with random BatchNorms make a rounding large."""
    torch.manual_seed(0)
    model, x = seeded(BUILT_IN[name](small_images=True)).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    names = [*model.state_dict()]
    folded = plain_copy(model)
    assert kinds(folded) == {
        "Conv2d": convolutions, "ReLU": convolutions, "AdaptiveAvgPool2d": 1, "Linear": 1
    }  # fmt: skip
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(folded(x), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert [*model.state_dict()] == names and kinds(model)["BatchNorm2d"] > convolutions


def test_folding_twice_changes_nothing() -> None:
    block = seeded(RepVGGBlock(4, 4, 1))
    block.reparameterize()
    weight = block.reparam_conv.weight.clone()
    block.reparameterize()
    assert torch.equal(block.reparam_conv.weight, weight)


def test_a_frozen_block_stays_frozen() -> None:
    block = seeded(RepVGGBlock(4, 4, 1)).requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in plain_copy(block).parameters())
    assert all(parameter.requires_grad for parameter in plain_copy(block.requires_grad_(True)).parameters())


def test_the_graph_in_float_has_one_convolution_for_each_block(tmp_path: Path) -> None:
    blocks = seeded(nn.Sequential(RepVGGBlock(3, 8, 2), RepVGGBlock(8, 8, 1), MobileOneBlock(8, 8, 3, 1, 8, 4)))
    to_onnx(blocks, tmp_path / "model.onnx", torch.randn(2, 3, 8, 8), opset=20)
    assert Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node) == {"Conv": 3, "Relu": 3}


def test_the_weight_that_quantization_aware_training_changes_is_the_folded_one() -> None:
    blocks, x = seeded(nn.Sequential(RepVGGBlock(3, 8, 1), RepVGGBlock(8, 8, 1))), torch.randn(2, 3, 8, 8)
    prepared = prepare(blocks, TENSORRT, (x,), qat=True)
    assert sum(node.target is aten.conv2d.default for node in prepared.graph.nodes) == 2
    assert not [node for node in prepared.graph.nodes if node.target is aten.batch_norm.default]
    prepared(x).sum().backward()
    learning = {name for name, parameter in prepared.named_parameters() if parameter.grad is not None}
    assert learning == {f"{i}.reparam_conv.{what}" for i in (0, 1) for what in ("weight", "bias")}


class Theirs(nn.Module):
    """A block of a user's: its method has the name of RepVGG's authors."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.folded = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), None

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x) if self.folded is None else self.folded(x)

    def switch_to_deploy(self) -> None:
        self.folded = nn.Conv2d(3, 4, 1)
        self.folded.weight.data, self.folded.bias.data = self.a.weight + self.b.weight, self.a.bias + self.b.bias
        del self.a, self.b


class WrongFold(Theirs):
    def switch_to_deploy(self) -> None:
        super().switch_to_deploy()
        self.folded.bias.data += 1.0


class Autoencoder(Theirs):
    """A variational autoencoder's draw has the same name and needs arguments."""

    switch_to_deploy = None

    def reparameterize(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        raise AssertionError("not called")


class Failing(Theirs):
    def switch_to_deploy(self) -> None:
        raise KeyError("gone")


def test_a_users_module_is_folded_by_its_own_method() -> None:
    model, x = Theirs().eval(), torch.randn(2, 3, 4, 4)
    folded = plain_copy(model)
    assert kinds(folded) == {"Conv2d": 1}
    torch.testing.assert_close(folded(x), model(x))


def test_a_method_that_needs_arguments_folds_nothing() -> None:
    assert kinds(plain_copy(Autoencoder())) == {"Conv2d": 2}


def test_a_fold_that_fails_is_told_with_its_module() -> None:
    with pytest.raises(ExportError, match=r"Failing.switch_to_deploy\(\) of '1' failed: KeyError: 'gone'"):
        plain_copy(nn.Sequential(nn.ReLU(), Failing()))


def test_a_fold_that_changes_the_function_is_refused_before_int8() -> None:
    with pytest.raises(QuantizationError, match="WrongFold"):
        prepare(WrongFold().eval(), TENSORRT, (torch.randn(2, 3, 4, 4),))


def test_a_student_that_is_cut_still_folds() -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(RepVGGBlock(3, 8, 1), RepVGGBlock(8, 8, 1), RepVGGBlock(8, 8, 1))
    part = before(seeded(blocks), "1")
    assert sum(isinstance(module, Branched) for module in part.modules()) == 2
    assert kinds(plain_copy(part))["Conv2d"] == 2
    inside = before(blocks, "1.conv_kxk")
    assert inside(torch.randn(1, 3, 4, 4)).shape == (1, 8, 4, 4)
