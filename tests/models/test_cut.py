"""A model cut at a layer computes what the whole computes, and refuses what has no one place to cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgekd.distill.features import Taps
from edgekd.errors import ModelError
from edgekd.models import BUILT_IN
from edgekd.models.cut import after, before

CUTS = [
    ("resnet8", "stem"),
    ("resnet8", "layer2"),
    ("resnet8", "pool"),
    ("resnet20", "layer1.1"),
    ("resnet20", "layer3"),
    ("wrn-16-2", "layer2.0"),
    ("wrn-16-2", "relu"),
    ("mobilenetv2-0.5", "blocks.3"),
    ("mobilenetv2-0.5", "head"),
]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return BUILT_IN[name]().eval()


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(x)
        return y


class Branching(Unused):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, a: Tensor, b: Tensor, scale: float = 2.0) -> Tensor:
        y: Tensor = self.right(self.left(a) + b * scale)
        return y


@pytest.mark.parametrize(("name", "path"), CUTS)
def test_the_two_parts_together_are_the_model(name: str, path: str) -> None:
    model, x = network(name), torch.randn(2, 3, 32, 32)
    with torch.no_grad(), Taps(model, [path], "model") as taps:
        expected = model(x)
        feature = taps.features[path]
        torch.testing.assert_close(before(model, path)(x), feature, rtol=0, atol=0)
        torch.testing.assert_close(after(model, path)(feature), expected, rtol=0, atol=0)


def test_the_parts_use_the_models_own_weights_and_names_and_nothing_of_the_other_part() -> None:
    model = network("resnet8")
    first, second = before(model, "layer2"), after(model, "layer2")
    state = model.state_dict(keep_vars=True)
    parts = [part.state_dict(keep_vars=True) for part in (first, second)]
    assert all(state[name] is value for part in parts for name, value in part.items())
    assert set(parts[0]) | set(parts[1]) == set(state) and not set(parts[0]) & set(parts[1])
    assert {name.split(".")[0] for name in parts[1]} == {"layer3", "fc"}


def test_a_part_can_be_cut_inside_a_block_where_nothing_comes_after() -> None:
    """A skip goes around `conv1`: the feature is well defined, the rest of the model is no function of it."""
    model, x = network("resnet8"), torch.randn(1, 3, 32, 32)
    with torch.no_grad(), Taps(model, ["layer1.0.conv1"], "model") as taps:
        model(x)
        torch.testing.assert_close(before(model, "layer1.0.conv1")(x), taps.features["layer1.0.conv1"])
    with pytest.raises(ModelError, match=r"'layer1\.0\.conv1': .* input 'x'"):
        after(model, "layer1.0.conv1")


def test_a_part_keeps_every_input_of_the_model() -> None:
    model, (a, b) = TwoInputs(), torch.randn(2, 4, 3)
    torch.testing.assert_close(before(model, "left")(a, b, 3.0), model.left(a))
    torch.testing.assert_close(before(model, "right")(a, b, 3.0), model(a, b, 3.0))
    with pytest.raises(ModelError, match=r"'left': .* input '"):
        after(model, "left")


def test_a_part_can_be_exported() -> None:
    model, x = network("resnet8"), torch.randn(2, 3, 32, 32)
    part = before(model, "layer3")
    torch.testing.assert_close(torch.export.export(part, (x,)).module()(x), part(x))


@pytest.mark.parametrize("cut", [before, after])
@pytest.mark.parametrize(
    ("model", "path", "said"),
    [
        (network("resnet8"), "layr2", "'layr2'.*Did you mean layer2"),
        (network("resnet8"), "", "no layer ''"),
        (network("resnet8"), "layer1.0.relu", "called 2 times"),
        (Unused(), "spare", "called 0 times"),
        (Branching(), "used", "'used', .*TraceError"),
    ],
)
def test_what_has_no_one_place_to_cut_is_refused(
    cut: Callable[[nn.Module, str], nn.Module], model: nn.Module, path: str, said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        cut(model, path)
