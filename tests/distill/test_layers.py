"""`layers = "auto"`: the pairing, and every method that reads features training by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.distill.layers import pair_layers, paired, stages
from edgekd.distill.methods import METHODS
from edgekd.distill.train import train
from edgekd.errors import ModelError
from edgekd.models.resnet import resnet8, resnet20
from edgekd.models.wrn import wrn_16_2
from edgekd.recipe.losses import Loss
from tests.builders.training import lesson_on, samples, settings

IMAGES = (torch.zeros(2, 3, 32, 32),)


def test_stages_are_the_last_layers_of_each_resolution() -> None:
    assert [path for path, _ in stages(resnet20(), IMAGES, "student")] == ["layer1", "layer2", "layer3"]


def test_layers_of_one_resolution_go_together() -> None:
    (loss,) = pair_layers([Loss(method="at", layers="auto")], resnet8(), resnet20(), IMAGES)
    assert loss.layers == {"layer1": "layer1", "layer2": "layer2", "layer3": "layer3"}


def test_a_module_that_is_called_twice_stands_for_no_stage() -> None:
    activation = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), activation, nn.Conv2d(4, 4, 3, padding=1), activation)
    assert stages(model, (torch.zeros(1, 3, 8, 8),), "student") == [("2", (1, 4, 8, 8))]


def test_without_a_common_resolution_depth_decides() -> None:
    ours = [("a", (2, 4, 30, 30)), ("b", (2, 8, 15, 15))]
    theirs = [("x", (2, 4, 32, 32)), ("y", (2, 4, 16, 16)), ("z", (2, 4, 8, 8))]
    assert paired(ours, theirs) == {"a": "x", "b": "z"}


@pytest.mark.parametrize(
    ("method", "layers"),
    [
        ("rkd", {"layer3": "layer3"}),
        ("srrl", {"layer3": "layer3"}),
        ("one", ("layer2",)),
        ("byot", ("layer1", "layer2", "layer3")),
    ],
)
def test_a_method_takes_what_it_reads_of_the_pairs(method: str, layers: object) -> None:
    (loss,) = pair_layers([Loss(method=method, layers="auto")], resnet8(), resnet20(), IMAGES)
    assert loss.layers == layers


def test_what_the_recipe_pins_stays() -> None:
    pinned = Loss(method="at", layers={"layer1": "layer2"})
    assert pair_layers([pinned, Loss(method="at", layers="auto")], resnet8(), wrn_16_2(), IMAGES)[0] == pinned


def test_a_network_without_maps_is_told() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(ModelError, match=r"student .*layers = \{"):
        pair_layers([Loss(method="at", layers="auto")], flat, resnet8(), IMAGES)


def test_ofd_wants_its_layers_named() -> None:
    with pytest.raises(ModelError, match=r"ofd .*layers = \{"):
        pair_layers([Loss(method="ofd", layers="auto")], resnet8(), resnet20(), IMAGES)


def test_a_student_of_one_stage_has_none_before_the_last() -> None:
    one_stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(ModelError, match=r"one with layers = \"auto\" .* has 1; name a layer"):
        pair_layers([Loss(method="one", layers="auto")], one_stage, resnet8(), IMAGES)


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if "f_s" in method.needs and "mask" not in method.needs]
)
def test_every_method_that_reads_features_trains(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    student, teacher = resnet8(3, 1, width=4), resnet8(3, 1, width=8).eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    layers: Any = {"layer1.0.bn2": "layer1.0.bn2"} if method == "ofd" else "auto"
    losses = pair_layers(
        [Loss(method=method, weight=1e-3, layers=layers)], student, teacher, (torch.zeros(2, 1, 6, 6),)
    )
    lesson = lesson_on(samples(), None, teacher)
    train(student, lesson, settings(epochs=2, losses=losses), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line[f"loss/{method}"]) and line[f"loss/{method}"] != 0 for line in lines)
    assert all(torch.equal(tensor.cpu(), before[name]) for name, tensor in teacher.state_dict().items())
