"""Training on a device that is not the processor, emulated: no tensor is made or left on the other side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd.distill.train import train
from edgekd.inputs.image import INPUT
from edgekd.models import accelerator
from edgekd.models.accelerator import autocast, device_of
from edgekd.models.forward import logits_of
from edgekd.recipe.losses import Loss
from tests.builders.training import PIXELS, lesson_on, network, samples, settings


def test_the_emulated_device_is_strict(emulated_accelerator: torch.device) -> None:
    """A sum of tensors of both sides raises, as CUDA's does; with a number, or an index, it does not."""
    there = torch.arange(4.0).to(emulated_accelerator)
    assert (
        there.device == emulated_accelerator and torch.tensor([1.0], device=emulated_accelerator).device == there.device
    )
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.arange(4.0)
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    assert (there + torch.tensor(1.0)).cpu().tolist() == [1, 2, 3, 4]
    assert there[torch.tensor([2])].cpu().tolist() == [2]


def test_a_student_trains_there_as_on_the_processor(emulated_accelerator: torch.device, tmp_path: Path) -> None:
    """The same weights: the emulation computes with the processor's kernels."""
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    trained = train(network(1), lesson_on(samples(), None, None), settings(), tmp_path / "there")
    assert device_of(trained) == emulated_accelerator
    there = [parameter.detach().cpu() for parameter in trained.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerator, "device", lambda: torch.device("cpu"))
        here = train(network(1), lesson_on(samples(), None, None), settings(), tmp_path / "here")
    for ours, theirs in zip(here.parameters(), there, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-5)


def test_a_teacher_of_the_processor_is_moved_to_where_the_student_trains(
    emulated_accelerator: torch.device, tmp_path: Path
) -> None:
    teacher = network(1).eval().requires_grad_(False)
    losses = (Loss(method="fitnet", weight=1.0, layers={"2": "2"}), Loss(method="kd", temperature=2.0))
    train(network(2), lesson_on(samples(), None, teacher), settings(losses=losses, epochs=1), tmp_path)
    assert device_of(teacher) == emulated_accelerator


def test_images_go_where_the_model_is(emulated_accelerator: torch.device) -> None:
    model = network(1).eval()
    expected = logits_of(model, samples().input, {INPUT: PIXELS})
    assert logits_of(model.to(emulated_accelerator), samples().input, {INPUT: PIXELS}).device.type == "cpu"
    torch.testing.assert_close(logits_of(model, samples().input, {INPUT: PIXELS}), expected)


def test_a_model_without_weights_is_on_the_processor() -> None:
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_a_device_without_autocast_computes_as_it_is() -> None:
    with autocast(torch.device("meta"), bf16=True):
        assert not torch.is_autocast_enabled("cpu")
