"""Where channels_last fails or gives wrong gradients, models compute in contiguous tensors."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.models.memory_format import arranged, forward, training_format
from edgekd.models.resnet import resnet8

IMAGES = torch.rand(2, 8, 8, 3).permute(0, 3, 1, 2)


class Flattened(nn.Module):
    """A classifier as many tutorials write it: `view` behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(x.shape[0], -1))


class Functional(nn.Module):
    """Its strided 1×1 convolution is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, stride=2)


class InTraining(nn.Module):
    """Its strided 1×1 convolution runs in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.aside, self.norm = nn.Conv2d(3, 8, 1, 2), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.aside(self.norm(x)) if self.training else self.norm(x)


@pytest.mark.parametrize(
    "model",
    [nn.Conv2d(3, 8, 1, 2), nn.Conv2d(3, 8, 1, (1, 2)), Functional(), InTraining(), Flattened(), resnet8(width=4)],
    ids=["strided_1x1", "strided_in_width", "functional", "in_training_alone", "view", "resnet8_of_width_4"],
)
def test_models_that_channels_last_would_harm_train_in_contiguous_tensors(model: nn.Module) -> None:
    assert training_format(model, (IMAGES,)) is torch.contiguous_format


@pytest.mark.parametrize(
    "model",
    [nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, 2), nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1, 2)), resnet8()],
    ids=["1x1", "strided_3x3", "strided_1x1_of_16_channels", "resnet8"],
)
def test_other_models_train_in_channels_last(model: nn.Module) -> None:
    assert training_format(model, (IMAGES,)) is torch.channels_last


def test_finding_the_format_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    training_format(model, (IMAGES,))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert drawn == torch.rand(1) and not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_with_views_answers_images_in_channels_last() -> None:
    model = Flattened().eval()
    expected = model(IMAGES.contiguous())
    assert not IMAGES.is_contiguous()
    assert torch.equal(forward(model, (IMAGES,)), expected) and torch.equal(forward(model, (IMAGES,)), expected)


def test_an_error_of_the_model_itself_is_raised() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(1, 2).view(-1)

    with pytest.raises(RuntimeError, match="view size"):
        forward(Broken(), (IMAGES,))


@pytest.mark.parametrize("channels", [1, 4])
def test_the_gradient_of_a_strided_1x1_convolution_is_right_in_the_format_that_is_taken(channels: int) -> None:
    """In a process of its own with two threads: in channels_last oneDNN may end it, or give half of the gradient."""
    code = f"""
import torch
from torch import nn
from edgekd.models.memory_format import arranged, training_format

torch.manual_seed(0)
torch.set_num_threads(2)
images = torch.rand(64, 8, 8, {channels}).permute(0, 3, 1, 2)
model = nn.Conv2d({channels}, 8, 1, 2, bias=False)
layout = training_format(model, (images[:2],))
for _ in range(5):
    model.weight.grad = None
    model(*arranged((images,), layout)).square().sum().backward()
sampled = images[:, :, ::2, ::2].permute(0, 2, 3, 1).reshape(-1, {channels}).double()
w = model.weight.detach().double().flatten(1)
expected = (2 * sampled @ w.T).T @ sampled
assert torch.allclose(model.weight.grad.flatten(1).double(), expected, rtol=1e-4), (model.weight.grad, expected)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_image_of_one_channel_is_copied_into_contiguous_strides() -> None:
    """Its strides are those of both formats, and convolutions take them for channels_last."""
    images = torch.rand(2, 8, 8, 1).permute(0, 3, 1, 2)
    assert images.is_contiguous() and images.stride()[1] == 1
    assert arranged((images,), torch.contiguous_format)[0].stride() == (64, 64, 8, 1)
