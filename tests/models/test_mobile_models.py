"""The mobile students have the parameters of their papers, and compute what torchvision's and timm's networks compute."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.errors import ModelError
from edgekd.models import BUILT_IN
from edgekd.models.ghostnet import Bottleneck
from edgekd.models.plain import plain_copy
from tests.builders.networks import seeded

OF_THE_DATA = ("num_classes", "in_channels", "numbers", "categories")
NAMES = ("mobilenetv3-small", "mobilenetv3-large", "efficientnet-lite0", "ghostnet", "repvgg-a0", "mobileone-s0")
THEIRS = {"efficientnet-lite0": "efficientnet_lite0", "ghostnet": "ghostnet_100", "repvgg-a0": "repvgg_a0",
          "mobileone-s0": "mobileone_s0"}  # fmt: skip


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def make(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return BUILT_IN[name](**arguments).eval()


@pytest.fixture(scope="module")
def torchvision() -> Iterator[None]:
    """A torchvision for another build of torch lacks operators that its import, and timm's, looks for."""
    library = None
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor a, Tensor b, float c) -> Tensor")
    yield
    del library


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # torchvision's documentation, num_params of MobileNet_V3_Small_Weights and MobileNet_V3_Large_Weights
        ("mobilenetv3-small", 2_542_856),
        ("mobilenetv3-large", 5_483_032),
        # timm 1.0.31, efficientnet_lite0 (the authors: 4.7 million)
        ("efficientnet-lite0", 4_652_008),
        # timm 1.0.31, ghostnet_100 (the paper: 5.2 million)
        ("ghostnet", 5_182_508),
    ],
)
def test_a_mobile_student_has_the_published_parameters_with_1000_classes(name: str, expected: int) -> None:
    assert parameters(make(name, num_classes=1000)) == expected


def test_repvgg_ships_the_papers_parameters() -> None:
    """22 convolutions 3x3 with biases and a classifier; the paper has 8.30 million."""
    widths = [3, 48, *[48] * 2, *[96] * 4, *[192] * 14, 1280]
    expected = sum(9 * a * b + b for a, b in pairwise(widths)) + 1280 * 1000 + 1000
    assert parameters(plain_copy(make("repvgg-a0", num_classes=1000))) == expected == 8_309_384


def test_mobileone_ships_the_papers_parameters_with_any_number_of_branches() -> None:
    """A stem, then pairs of a depthwise and a 1x1 convolution, all with biases; the paper has 2.1 million."""
    widths = [48, *[48] * 2, *[128] * 8, *[256] * 10, 1024]
    expected = 3 * 48 * 9 + 48 + 1024 * 1000 + 1000
    expected += sum(9 * a + a + a * b + b for a, b in pairwise(widths))
    for branches in (1, 4):
        folded = plain_copy(make("mobileone-s0", num_classes=1000, branches=branches))
        assert parameters(folded) == expected == 2_078_504


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("small_images", "side"), [(False, 2), (True, 8)])
def test_the_last_map_is_a_32nd_of_the_image_or_an_eighth_if_images_are_small(
    name: str, small_images: bool, side: int
) -> None:
    model, seen = make(name, small_images=small_images), []
    pool = next(module for path, module in model.named_modules() if path in ("pool", "avgpool"))
    pool.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0].shape[2:]))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    assert seen == [(side, side)]


@pytest.mark.parametrize("name", ["mobilenetv3-small", "mobilenetv3-large", "ghostnet"])
def test_half_the_width_has_fewer_parameters_and_no_width_is_refused(name: str) -> None:
    assert parameters(make(name, width=0.5)) < parameters(make(name)) / 2
    with pytest.raises(ModelError, match=r"of width 0; give a factor above 0"):
        make(name, width=0)


def test_mobileone_without_branches_is_refused() -> None:
    with pytest.raises(ModelError, match="0 branches; give at least 1"):
        make("mobileone-s0", branches=0)


def test_a_ghost_block_for_small_images_keeps_its_layers() -> None:
    """So that weights of the paper's strides fit."""
    names = [{*make("ghostnet", small_images=small).state_dict()} for small in (False, True)]
    assert names[0] == names[1]
    assert sum(isinstance(module, Bottleneck) for module in make("ghostnet").modules()) == 16


def same_answers(ours: nn.Module, theirs: nn.Module) -> None:
    """All names and shapes fit, and both compute the same from random BatchNorms."""
    ours.load_state_dict(seeded(theirs).state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        answers, expected = ours.double().eval()(images), theirs.double().eval()(images)
    torch.testing.assert_close(answers, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("size", ["small", "large"])
def test_mobilenetv3_computes_what_torchvisions_computes_with_its_weights(torchvision: None, size: str) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    build: Callable[[], nn.Module] = getattr(models, f"mobilenet_v3_{size}")
    same_answers(make(f"mobilenetv3-{size}", num_classes=1000), build())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", THEIRS)
def test_a_mobile_student_computes_what_timms_computes_with_its_weights(torchvision: None, name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    same_answers(make(name, num_classes=1000), timm.create_model(THEIRS[name]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "convolutions"), [("repvgg_a0", 22), ("mobileone_s0", 43)])
def test_a_network_of_timm_is_folded_by_its_own_method(torchvision: None, name: str, convolutions: int) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    theirs, images = seeded(timm.create_model(name, num_classes=10)).double(), torch.randn(2, 3, 64, 64).double()
    folded = plain_copy(theirs)
    assert sum(isinstance(module, nn.Conv2d) for module in folded.modules()) == convolutions
    assert sum(isinstance(module, nn.Conv2d) for module in theirs.modules()) > convolutions
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(
            folded.double()(images), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max())
        )


def test_the_page_of_students_lists_each_with_its_parameters() -> None:
    page = (Path(__file__).parents[2] / "docs" / "students.md").read_text()
    rows = re.findall(r"^\| `edgekd:(\S+)` \| (.*?) \|.*\| (.*?) ?\|$", page, re.MULTILINE)
    assert [name for name, _, _ in rows] == [*BUILT_IN]
    for name, counts, arguments in rows:
        own = inspect.signature(BUILT_IN[name]).parameters
        told = re.findall(r"`(\w+)` \((.*?)\)", arguments)
        assert {word: value.capitalize() for word, value in told} == {
            word: str(parameter.default) for word, parameter in own.items() if word not in OF_THE_DATA
        }
        numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", counts)]
        if numbers:
            model = make(name, num_classes=numbers[1])
            assert [parameters(model), parameters(plain_copy(model))] == [
                numbers[0],
                numbers[2] if len(numbers) > 2 else numbers[0],
            ]
