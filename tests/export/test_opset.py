"""A graph below the exporter's lowest opset computes the same, though onnx's converter lacks some of its operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import ExportError
from edgekd.export.check import check
from edgekd.export.opset import at_opset
from edgekd.export.to_onnx import to_onnx


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
    "larger": nn.Upsample(scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("opset", [15, 16, 17])
@pytest.mark.parametrize("name", YOUNGER)
def test_what_is_younger_is_written_and_computes_the_same(name: str, opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 7, 1), YOUNGER[name]).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, 3, 5, 6)
    to_onnx(model, tmp_path / "model.onnx", x[:2], opset=opset)
    written = onnx.load(tmp_path / "model.onnx")
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", opset)]
    found = check(tmp_path / "model.onnx", model, [x], min_agreement=0)
    assert found.max_difference < 1e-4


def test_an_operator_with_no_older_form_is_refused_with_the_least_opset() -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> g (int32[2] x) => (int32[2] y) { y = BitwiseNot (x) }'
    model = onnx.parser.parse_model(text)
    with pytest.raises(ExportError, match=r"cannot be written at opset 16 .*BitwiseNot.*set export.opset = 18"):
        at_opset(model, 16)


def test_a_split_of_a_free_size_is_refused_rather_than_cut_otherwise() -> None:
    """Its last part may be the smaller one, which opset 13 does not know."""
    text = (
        '<ir_version: 9, opset_import: ["" : 18]> g (float[N] x) => (float[M] y, float[L] z) '
        "{ y, z = Split <num_outputs = 2> (x) }"
    )
    with pytest.raises(ExportError, match=r"cannot be written at opset 17 .*Split"):
        at_opset(onnx.parser.parse_model(text), 17)
