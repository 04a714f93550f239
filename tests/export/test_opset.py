"""A graph below the exporter's lowest opset computes the same, though onnx's converter lacks some of its operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import ExportError
from edgekd.export.opset import LOWEST, at_opset
from edgekd.export.to_onnx import LEAST_OPSET, to_onnx
from edgekd.runtime.check import check


class Calls(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def parts(x: Tensor) -> Tensor:
    """7 channels in parts of 4 and 3."""
    a, b = x.chunk(2, 1)
    return torch.cat([b.relu(), a], 1)


YOUNGER: dict[str, nn.Module] = {
    "split": Calls(parts),
    "mish": nn.Mish(),
    "padded by reflection": nn.ReflectionPad2d(2),
    "padded around": nn.CircularPad2d(1),
    "length": Calls(lambda x: nn.functional.normalize(x, dim=1)),
    "layer norm": nn.LayerNorm(6),
    "layer norm of two axes, without a bias": nn.LayerNorm((5, 6), bias=False),
    "layer norm without parameters": nn.LayerNorm(6, eps=0.1, elementwise_affine=False),
    "parts that are answers": Calls(lambda x: x.chunk(2, 2)[1]),
    "norm of groups": nn.GroupNorm(1, 7),
    "norm of the batch": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(7), nn.Flatten(), nn.Linear(210, 3)),
    "arithmetic": Calls(lambda x: (x * 2 - x.mean((2, 3), keepdim=True)) / (x.relu() + 1)),
    "larger": nn.Upsample(scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("opset", range(LEAST_OPSET, LOWEST))
@pytest.mark.parametrize("name", YOUNGER)
def test_what_is_younger_is_written_and_computes_the_same(name: str, opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 7, 1), YOUNGER[name]).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, 3, 5, 6)
    if name == "length" and opset < 15:  # a part of a shape
        with pytest.raises(ExportError, match=r"set export\.opset = 15"):
            to_onnx(model, tmp_path / "model.onnx", x[:2], opset=opset)
        return
    to_onnx(model, tmp_path / "model.onnx", x[:2], opset=opset)
    written = onnx.load(tmp_path / "model.onnx")
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", opset)]
    read = {name for node in written.graph.node for name in node.input}
    assert {tensor.name for tensor in written.graph.initializer} <= read
    found = check(tmp_path / "model.onnx", model, [x], min_agreement=0, class_axis=1)
    assert found.max_difference < 1e-4


def test_an_operator_with_no_older_form_is_refused_with_the_least_opset() -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> g (int32[2] x) => (int32[2] y) { y = BitwiseNot (x) }'
    model = onnx.parser.parse_model(text)
    with pytest.raises(ExportError, match=r"opset 16 .*BitwiseNot.*set export.opset = 18"):
        at_opset(model, 16)


def test_a_split_of_a_free_size_is_refused_rather_than_cut_otherwise() -> None:
    """Its last part may be the smaller one, which opset 13 does not know."""
    text = (
        '<ir_version: 9, opset_import: ["" : 18]> g (float[N] x) => (float[M] y, float[L] z) '
        "{ y, z = Split <num_outputs = 2> (x) }"
    )
    with pytest.raises(ExportError, match=r"opset 17 .*Split.*set export\.opset = 18"):
        at_opset(onnx.parser.parse_model(text), 17)
