"""Taps read what a module put out, of the instance, and refuse what is written over later."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd.distill.features import Taps
from edgekd.errors import ModelError


def network(inplace: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=inplace), nn.Flatten())


def test_a_tap_holds_what_the_module_put_out() -> None:
    model, x = network(inplace=False), torch.randn(1, 1, 5, 5)
    with Taps(model, ["0"], "student") as taps:
        model(x)
        assert torch.equal(taps.features["0"], model[0](x)) and taps.features["0"].min() < 0
    assert not taps.features and not model._forward_hooks and not model[0]._forward_hooks


def test_another_instance_is_not_read() -> None:
    model, other = network(inplace=False), network(inplace=False)
    with Taps(model, ["0"], "student") as taps:
        other(torch.randn(1, 1, 5, 5))
        assert not taps.features


@pytest.mark.parametrize("grad", [False, True])
def test_an_output_that_is_written_over_is_refused_by_its_name(grad: bool) -> None:
    model = network(inplace=True)
    with (
        torch.set_grad_enabled(grad),
        Taps(model, ["0"], "student"),
        pytest.raises(ModelError, match=r"'0' .*inplace=False"),
    ):
        model(torch.randn(1, 1, 5, 5))
    with Taps(model, ["1"], "student") as taps:
        model(torch.randn(1, 1, 5, 5))
        assert taps.features["1"].min() == 0


def test_a_module_that_one_pass_calls_twice_is_refused_by_its_name() -> None:
    """Which of its two outputs would be the feature?"""
    convolution, activation = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()
    model = nn.Sequential(convolution, activation, nn.Conv2d(1, 1, 3, padding=1), activation)
    with (
        Taps(model, ["1"], "student"),
        pytest.raises(ModelError, match="'1' is called 2 times"),
    ):
        model(torch.randn(1, 1, 5, 5))
    with Taps(model, ["0"], "student") as taps:
        for _ in range(2):  # passes, not calls
            model(torch.randn(1, 1, 5, 5))
        assert taps.features["0"].shape == (1, 1, 5, 5)
