"""The keyword networks have the parameters of their papers, and take spectrograms of any length."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd.models.bc_resnet import SubSpectralNorm, bc_resnet
from edgekd.models.ds_cnn import ds_cnn
from edgekd.models.reference import load_model
from edgekd.recipe import Model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_ds_cnn_has_mlperf_tinys_parameters_without_the_biases_of_convolutions() -> None:
    """MLPerf Tiny: 24,908 in all, 1,152 of them running statistics; nine convolutions of 64 filters with biases."""
    assert parameters(ds_cnn(12)) == 24_908 - 1_152 - 9 * 64 == 23_180
    assert parameters(ds_cnn(12, width=16)) < 4_000


def test_ds_cnn_has_the_map_of_mlperf_tiny() -> None:
    """Of 49 frames of 10 coefficients a map of 25 x 5; here bands come first."""
    assert ds_cnn(12).eval().stem(torch.zeros(1, 1, 10, 49)).shape == (1, 64, 5, 25)


def test_bc_resnet_has_the_papers_parameters() -> None:
    """Table 1: BC-ResNet-1 has 9.2k, BC-ResNet-8 321k."""
    assert round(parameters(bc_resnet(12)) / 1000, 1) == 9.2
    assert round(parameters(bc_resnet(12, width=64)) / 1000) == 321


def test_bc_resnet_normalises_sub_bands_apart() -> None:
    x = torch.randn(8, 3, 20, 11) + torch.arange(20.0)[:, None] * 2
    y = SubSpectralNorm(3).train()(x).reshape(8, 3, 5, 4, 11)
    assert y.mean((0, 3, 4)).abs().max() < 1e-5 and (y.var((0, 3, 4), correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["ds-cnn", "bc-resnet"])
@pytest.mark.parametrize("frames", [49, 98, 101])
def test_spectrograms_of_any_length_give_logits(name: str, frames: int) -> None:
    model = load_model(Model(model=f"edgekd:{name}"), num_classes=7, in_channels=1)
    assert model(torch.randn(2, 1, 40, frames)).shape == (2, 7)


def test_bands_that_do_not_part_are_refused() -> None:
    with pytest.raises(AssertionError, match="5 sub-bands do not part these bands"):
        bc_resnet(3)(torch.zeros(2, 1, 32, 50))
