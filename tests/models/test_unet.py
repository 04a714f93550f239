"""U-Net gives maps of its images' size, has the parameters of its layers, and stays itself in int8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd.errors import ModelError
from edgekd.export.to_onnx import to_onnx
from edgekd.models.cut import after, before
from edgekd.models.reference import load_model
from edgekd.models.unet import unet
from edgekd.quantize import calibrate, convert, prepare, sites
from edgekd.quantize.same import distance
from edgekd.recipe import Model
from edgekd.target import load_target
from tests.builders.inputs import answer


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def by_hand(width: int, depth: int, channels: int, classes: int) -> int:
    """Two convolutions and their norms a level, two more and a transposed one on the way up, the bottom and the head."""
    widths = [width * 2**i for i in range(depth + 1)]  # the last is the bottom's
    down = sum(9 * (a * b + b * b) + 4 * b for a, b in zip([channels, *widths[:-1]], widths, strict=True))
    up = sum((4 * 2 * b * b + b) + 9 * (2 * b * b + b * b) + 4 * b for b in widths[:-1])
    return down + up + width * classes + classes


@pytest.mark.parametrize(("width", "depth", "channels"), [(8, 3, 3), (8, 4, 3), (64, 4, 1)])
def test_its_parameters_are_those_of_its_layers(width: int, depth: int, channels: int) -> None:
    assert parameters(unet(2, channels, width, depth)) == by_hand(width, depth, channels, 2)


def test_at_the_papers_width_and_depth_it_has_the_papers_31_million_parameters() -> None:
    assert round(parameters(unet(2, 1, 64, 4)) / 1e6) == 31


@pytest.mark.parametrize(("depth", "size"), [(3, (24, 40)), (4, (32, 48))])
def test_its_map_has_the_size_of_its_images(depth: int, size: tuple[int, int]) -> None:
    model = load_model(Model(model="edgekd:unet", args={"depth": depth}), num_classes=5, in_channels=1)
    assert model(torch.randn(2, 1, *size)).shape == (2, 5, *size)


def test_a_size_that_cannot_be_halved_is_refused_with_the_next() -> None:
    with pytest.raises(ModelError, match=r"30 x 32 is no multiple of 8; .* to 32 x 32"):
        unet()(torch.zeros(1, 3, 30, 32))


@pytest.mark.parametrize("given", [{"width": 0}, {"depth": 0}])
def test_no_width_or_depth_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="give at least 1 of each"):
        unet(**given)


def test_it_is_cut_into_two_and_still_refuses_a_size() -> None:
    model, x = unet().eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(after(model, "up.2")(before(model, "up.2")(x)), model(x))
    with pytest.raises(ModelError, match="no multiple of 8"):
        before(model, "up.2")(torch.zeros(1, 3, 20, 16))


NARROW = {"down.0.0.weight", "down.0.3.weight", "up.2.body.3.weight", "head.weight"}
"""Convolutions of width 8 with fewer than 16 channels, which TensorRT's scheme leaves in float."""


@pytest.mark.parametrize(
    ("name", "in_float"),
    [("x86-cpu", set()), ("raspberry-pi-5", set()), ("jetson-orin-nano", NARROW), ("android-arm64", set())],
)
def test_its_int8_file_computes_what_the_quantized_graph_computes(
    name: str, in_float: set[str], tmp_path: Path
) -> None:
    """Every layer that the target's rules take is in int8."""
    torch.manual_seed(0)
    target = load_target(name)
    model, x = unet().train(), torch.randn(8, 3, 16, 24)
    with torch.no_grad():
        for _ in range(20):  # running statistics that fit
            model(x)
    model.eval()
    prepared = prepare(model, target, (x[:2],))
    calibrate(prepared, [(x,)])
    with torch.no_grad():
        quantized = prepared(x[:3])
        assert distance([quantized], [model(x[:3])]) < 0.05
    converted = convert(prepared)
    to_onnx(converted, tmp_path / "int8.onnx", (x[:2],), opset=target.runtime.default_opset)
    found = sites(tmp_path / "int8.onnx")
    assert found == sites(converted)
    layers = {path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)}
    assert len(layers) == 15 + 3
    held = {site.tensor.partition("weight")[0] + "weight" for site in found if "weight" in site.tensor}
    assert held == {f"{path}.weight" for path in layers} - in_float
    assert distance(answer(tmp_path / "int8.onnx", (x[:3],)), [quantized]) < 0.015
