"""Quantization-aware training: what stands still at its end, and what a kill costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.data import decode, open_samples
from edgekd.data.batches import to_tensor
from edgekd.distill.train import Lesson, Modes, train
from edgekd.quantize import calibrate, prepare
from edgekd.quantize.qat import activation_quantizers
from edgekd.quantize.student import modes_of
from edgekd.recipe import Distill, Optimizer, load_recipe
from edgekd.stage import SCRATCH, Cache
from tests.quantize.test_quantize import ONNXRUNTIME
from tests.test_cli import RECIPE

EPOCHS = 3


class Free(nn.Module):
    """One BatchNorm that a convolution absorbs, and one that none can."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.conv, self.bn, self.fc = (
            nn.BatchNorm2d(1),
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.Linear(8, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(self.free(x))).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    folder = tmp_path_factory.mktemp("qat")
    (folder / "edgekd.toml").write_text(RECIPE)
    data = load_recipe(folder).located().data
    with Cache(folder / "cache") as run:
        return Lesson(open_samples(run(decode, data.source).folder, data), data, None, None)


def prepared(lesson: Lesson) -> GraphModule:
    torch.manual_seed(0)
    graph = prepare(Free(), ONNXRUNTIME, (torch.zeros(2, 1, 8, 8),), qat=True)
    images = lesson.samples.train.get(lesson.samples.train_ids[:64])
    calibrate(graph, [to_tensor(images, lesson.data, torch.device("cpu"))])
    return graph


def trained(lesson: Lesson, folder: Path, modes: Modes) -> GraphModule:
    (folder / SCRATCH).mkdir(parents=True, exist_ok=True)
    settings = Distill(
        epochs=EPOCHS, batch_size=64, views=1, losses=(), label_weight=1.0, precision="fp32", warmup_epochs=0.0,
        optimizer=Optimizer(lr=0.02),
    )  # fmt: skip
    graph = prepared(lesson)
    train(graph, lesson, settings, folder, modes)
    return graph


def state(graph: GraphModule) -> tuple[dict[str, float], Tensor, Tensor]:
    """Scales of the activations, the free BatchNorm's mean, a weight."""
    scales = {tensor: float(quantizer.scale) for tensor, quantizer in activation_quantizers(graph)}
    weight = graph.get_parameter("conv.weight").detach().clone()
    return scales, graph.get_buffer("free.running_mean").clone(), weight


def test_ranges_and_statistics_stand_still_in_the_last_third_while_weights_go_on(
    lesson: Lesson, tmp_path: Path
) -> None:
    seen = []
    modes = modes_of(EPOCHS)

    def at_epoch(graph: GraphModule, epoch: int) -> None:
        seen.append(state(graph))
        modes.at_epoch(graph, epoch)

    last = state(trained(lesson, tmp_path, replace(modes, at_epoch=at_epoch)))
    for before, after in ((seen[0], seen[1]), (seen[1], seen[2])):
        assert before[0] != after[0] and not torch.equal(before[1], after[1])
    assert last[0] == seen[2][0] and torch.equal(last[1], seen[2][1])
    assert not torch.equal(last[2], seen[2][2])


def test_killed_in_its_last_epoch_it_ends_with_the_same_weights(lesson: Lesson, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    modes = modes_of(EPOCHS)

    def killed_in_the_last(graph: GraphModule, epoch: int) -> None:
        if epoch == EPOCHS - 1:
            raise Killed
        modes.at_epoch(graph, epoch)

    whole = trained(lesson, tmp_path / "whole", modes)
    with pytest.raises(Killed):
        trained(lesson, tmp_path / "killed", replace(modes, at_epoch=killed_in_the_last))
    resumed = trained(lesson, tmp_path / "killed", modes)
    expected = whole.state_dict()
    assert resumed.state_dict().keys() == expected.keys()
    for name, value in resumed.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), expected[name].numpy(), err_msg=name)
