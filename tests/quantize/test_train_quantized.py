"""Quantization-aware training: what stands still at its end, and what a kill costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.cache.stage import SCRATCH, Cache
from edgekd.data.batches import arguments_of
from edgekd.distill.lesson import Lesson
from edgekd.distill.train import Modes, train
from edgekd.export import to_onnx
from edgekd.export.lint import lint
from edgekd.quantize import calibrate, convert, prepare
from edgekd.quantize.qat import activation_quantizers, eval_mode, train_mode, weight_quantizers
from edgekd.recipe import ClassifyTask, Distill, Optimizer, load_recipe
from edgekd.runtime.runners import OnnxRunner
from edgekd.steps.problem import decoded
from edgekd.steps.quantize import modes_of
from edgekd.target import load_target
from tests.builders.recipes import RECIPE
from tests.builders.schemes import ONNXRUNTIME
from tests.builders.training import lesson_on

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
        return lesson_on(decoded(run, data, ClassifyTask()).open(), None, None)


def prepared(lesson: Lesson) -> GraphModule:
    torch.manual_seed(0)
    graph = prepare(Free(), ONNXRUNTIME, (torch.zeros(2, 1, 8, 8),), qat=True)
    images = lesson.samples.train.get(lesson.samples.train_ids[:64])
    calibrate(graph, [arguments_of(lesson.samples.input, images, torch.device("cpu"))])
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


class OneSided(nn.Module):
    """Ranges that lie on one side of zero: behind each ReLU, and in a channel of weights that are all positive."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.fc = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 16)
        with torch.no_grad():
            self.second.weight[0].abs_().add_(0.01)
            self.second.weight[1].abs_().add_(0.01).neg_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(x).relu()).relu().mean((2, 3)))


def test_training_for_a_symmetric_scheme_keeps_every_zero_point_at_zero(tmp_path: Path) -> None:
    target = load_target("jetson")
    images = torch.randn(32, 16, 10, 10)
    graph = prepare(OneSided(), target, (images[:2],), qat=True)
    calibrate(graph, [images])
    train_mode(graph)
    optimizer = torch.optim.SGD(graph.parameters(), 1e-3)
    for _ in range(3):
        loss = graph(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    eval_mode(graph)
    quantizers = [quantizer for _, quantizer in (*activation_quantizers(graph), *weight_quantizers(graph))]
    assert len(quantizers) >= 6 and not any(quantizer.zero_point.any() for quantizer in quantizers)
    with torch.no_grad():
        trained = graph(images)
    converted = convert(graph)
    to_onnx(converted, tmp_path / "model.onnx", images[:2], opset=20)
    assert not [finding for finding in lint(tmp_path / "model.onnx", target) if finding.severity == "error"]
    np.testing.assert_allclose(
        OnnxRunner(tmp_path / "model.onnx").run({"input": images.numpy()}), trained.numpy(), atol=1e-5
    )
