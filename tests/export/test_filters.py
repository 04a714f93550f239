"""Filters of zeros: the same outputs, and fewer than 16 filters no longer slow a convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgekd.export.to_onnx import to_onnx
from edgekd.models.unet import unet
from edgekd.quantize import calibrate, convert, prepare, sites
from edgekd.runtime.runners import OnnxRunner
from tests.builders.optimised import optimised
from tests.builders.schemes import UINT8


class Residual(nn.Module):
    """Two narrow convolutions whose outputs are added, and a third that reads the sum."""

    def __init__(self, *, also_read: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 16, 3, padding=1)
        self.also_read = also_read

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x) + self.second(x)
        z: Tensor = self.last(y).mean((2, 3))
        return z + y.mean((1, 2, 3))[:, None] if self.also_read else z


def exported(model: nn.Module, x: Tensor, folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The files of one quantized model without and with padding, whose outputs are equal, bit for bit."""
    outputs = {}
    for filters in (1, 16):
        prepared = prepare(model.eval(), UINT8.model_copy(update={"pad_filters_to": filters}), (x[:2],))
        calibrate(prepared, [x])
        to_onnx(convert(prepared), folder / f"{filters}", x[:2], opset=20)
        outputs[filters] = OnnxRunner(folder / f"{filters}").run({"input": x.numpy()})
    assert outputs[1].std() > 0 and np.array_equal(outputs[1], outputs[16])
    plain, padded = onnx.load(folder / "1"), onnx.load(folder / "16")
    assert sites(plain) == sites(padded)
    assert [node.op_type for node in plain.graph.node] == [
        node.op_type for node in padded.graph.node if node.op_type not in ("Pad", "Slice")
    ]
    return plain, padded


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {
        tensor.name.removesuffix(".weight_quantized"): tuple(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.name.endswith(".weight_quantized")
    }


def test_a_u_net_is_padded_through_its_pools_and_concatenations(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, padded = (
        shapes(each) for each in exported(unet(2, 3, width=8, depth=1), torch.randn(8, 3, 16, 16), tmp_path)
    )
    assert plain["down.0.0"] == (8, 3, 3, 3) and padded["down.0.0"] == (16, 4, 3, 3)
    assert plain["down.0.3"] == (8, 8, 3, 3) and padded["down.0.3"] == (16, 16, 3, 3)
    # The 8 channels of the upsampling are not padded: 8 + 16.
    assert plain["up.0.body.0"] == (8, 16, 3, 3) and padded["up.0.body.0"] == (16, 24, 3, 3)
    # The zeros of the last convolution are cut from the output.
    assert plain["head"] == (2, 8, 1, 1) and padded["head"] == (16, 16, 1, 1)
    operators = optimised(tmp_path / "16")
    assert operators["QLinearConv"] == 8 and operators["QLinearConcat"] == 1
    assert not {"Conv", "ConvTranspose", "FusedConv", "Relu", "Concat"} & set(operators)


@pytest.mark.parametrize(("also_read", "filters"), [(False, 16), (True, 8)])
def test_sums_are_padded_unless_another_operator_reads_them(also_read: bool, filters: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, padded = exported(Residual(also_read=also_read), torch.randn(8, 16, 8, 8), tmp_path)
    assert {name: shape[0] for name, shape in shapes(padded).items()} == {
        "first": filters,
        "second": filters,
        "last": 16,
    }
    assert shapes(padded)["last"][1] == filters
