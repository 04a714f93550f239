"""Transposed convolutions for runtimes that have no integer kernel of them: the same function, computed by an integer convolution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekd.export.to_onnx import to_onnx
from edgekd.quantize import calibrate, convert, prepare, sites
from edgekd.quantize.capture import capture, shuffle_transposed
from edgekd.quantize.layers import layers_of
from edgekd.quantize.operators import aten
from edgekd.quantize.refine import refine
from tests.builders.optimised import optimised
from tests.builders.schemes import ONNXRUNTIME, TENSORRT


class Upsampled(nn.Module):
    """A transposed convolution with a BatchNorm between two convolutions."""

    def __init__(self, *, bias: bool, **transposed: object) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, bias=bias, **transposed)  # type: ignore[arg-type]
        self.norm, self.after = nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.norm(self.up(self.before(x).relu())).relu())
        return y


def made(**arguments: object) -> Upsampled:
    torch.manual_seed(0)
    model = Upsampled(**arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(8, 3, 6, 8))
    return model.eval()


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_side_by_side_blocks_are_a_convolution_and_a_shuffle(bias: bool, trainable: bool) -> None:
    model, x = made(bias=bias, kernel_size=(2, 3), stride=(2, 3)), torch.randn(4, 3, 6, 8)
    graph = capture(model, (x[:2],), trainable=trainable)
    shuffle_transposed(graph)
    graph.recompile()
    assert aten.conv_transpose2d.input not in {node.target for node in graph.graph.nodes}
    expected = model(x)
    torch.testing.assert_close(graph(x), expected, atol=1e-5, rtol=0)
    assert expected.shape == (4, 4, 12, 24)


@pytest.mark.parametrize(
    "transposed",
    [
        {"kernel_size": 4, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2, "output_padding": 1},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 2, "stride": 2, "dilation": 2},
    ],
)
def test_blocks_that_overlap_or_are_cut_stay(transposed: dict[str, object]) -> None:
    graph = capture(made(bias=True, **transposed), (torch.randn(2, 3, 6, 8),), trainable=False)
    before = [node.target for node in graph.graph.nodes]
    shuffle_transposed(graph)
    assert [node.target for node in graph.graph.nodes] == before and aten.conv_transpose2d.input in before


@pytest.mark.parametrize("qat", [False, True])
def test_onnxruntime_computes_it_in_integers_and_the_site_keeps_its_name(qat: bool, tmp_path: Path) -> None:
    model, x = made(bias=True, kernel_size=2, stride=2), torch.randn(64, 3, 6, 8)
    prepared = prepare(model, ONNXRUNTIME, (x[:2],), qat=qat)
    calibrate(prepared, [x])
    converted = convert(prepared)
    assert "up.weight" in {site.tensor for site in sites(converted)}
    to_onnx(converted, tmp_path / "model.onnx", x[:2], opset=20)
    assert sites(tmp_path / "model.onnx") == sites(converted)
    operators = optimised(tmp_path / "model.onnx")
    assert operators["QLinearConv"] == 3 and not {"Conv", "ConvTranspose", "Relu"} & set(operators)
    with torch.no_grad():
        error = (converted(x) - model(x)).square().mean().sqrt() / model(x).std()
    assert 0 < error < 0.03


def test_methods_that_go_layer_by_layer_see_it() -> None:
    model, x = made(bias=True, kernel_size=2, stride=2), torch.randn(16, 3, 6, 8)
    prepared = prepare(model, ONNXRUNTIME, (x[:2],))
    calibrate(prepared, [x])
    assert [layer.name for layer in layers_of(prepared)] == ["before", "up", "after"]
    refine(prepared, [(x,)], ("adaround", "bias_correction"))
    with torch.no_grad():
        error = (convert(prepared)(x) - model(x)).square().mean().sqrt() / model(x).std()
    assert 0 < error < 0.03


def test_one_that_stays_float_is_not_rewritten() -> None:
    model, x = made(bias=True, kernel_size=2, stride=2), torch.randn(4, 3, 6, 8)
    prepared = prepare(model, ONNXRUNTIME, (x[:2],), keep_float=["up"])
    assert aten.conv_transpose2d.input in {node.target for node in prepared.graph.nodes}


def test_a_target_with_a_rule_for_it_keeps_it() -> None:
    model, x = made(bias=True, kernel_size=2, stride=2), torch.randn(4, 3, 6, 8)
    prepared = prepare(model, TENSORRT, (x[:2],))
    assert aten.conv_transpose2d.input in {node.target for node in prepared.graph.nodes}
