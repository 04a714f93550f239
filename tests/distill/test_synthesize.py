"""Synthetic images from a teacher alone, on scikit-learn's digits: what they are, and that a student learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgekd.data.digits import load
from edgekd.distill.data_free import synthesize
from edgekd.distill.data_free.bn_statistics import BatchNormStatistics
from edgekd.distill.data_free.synthesize import (
    METHODS,
    deep_inversion,
    disagreement,
    generate,
    negative_entropy,
    total_variation,
)
from edgekd.distill.methods import kd
from edgekd.errors import ModelError
from edgekd.models import ExportedModel, OnnxModel

DIGITS: dict[str, Any] = {"image_shape": (8, 8, 1), "mean": (0.31,), "std": (0.38,)}
NOISE = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 1)).astype(np.uint8)
INVERSION: dict[str, Any] = {"n": 400, "steps": 150, "batch": 200, "bn": 3.0, "jitter": 1, "flip": False}


def to_input(images: npt.NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.31) / 0.38


def network(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 3, 2, 1), nn.BatchNorm2d(4 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10),
    )  # fmt: skip


def taught(model: nn.Module, images: npt.NDArray[np.uint8], targets: Tensor, epochs: int) -> nn.Module:
    """The model after epochs of Adam in batches of 64; int64 targets are labels, others a teacher's logits."""
    inputs = to_input(images)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            z, t = model(inputs[rows]), targets[rows]
            loss = cross_entropy(z, t) if t.dtype == torch.int64 else kd(z, t, temperature=4.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, images: npt.NDArray[np.uint8]) -> Tensor:
    return model.eval()(to_input(images))  # type: ignore[no-any-return]


def top1(model: nn.Module, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> float:
    return 100 * float((logits(model, images).argmax(1).numpy() == labels).mean())


def statistics_of(model: nn.Module, images: npt.NDArray[np.uint8]) -> float:
    with BatchNormStatistics(model) as statistics:
        logits(model, images)
        return float(statistics.distance())


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    images, labels, _ = load("train")
    return taught(network(16, 0), images, torch.from_numpy(labels), 12)


@pytest.fixture(scope="module")
def inverted(teacher: nn.Module) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    return deep_inversion(teacher, **INVERSION, **DIGITS)


def test_the_teacher_knows_its_digits(teacher: nn.Module) -> None:
    assert top1(teacher, *load("test")[:2]) > 95


# deep_inversion


def test_inverted_images_are_bytes_of_every_class_alike(
    inverted: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]],
) -> None:
    images, labels = inverted
    assert images.shape == (400, 8, 8, 1) and images.dtype == np.uint8 and labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [40] * 10
    assert images.std() > 30


def test_inverted_images_have_the_statistics_of_the_teachers_data(
    teacher: nn.Module, inverted: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
) -> None:
    assert statistics_of(teacher, inverted[0]) < 0.3 * statistics_of(teacher, NOISE)
    assert statistics_of(teacher, load("train")[0][:400]) < 0.3 * statistics_of(teacher, NOISE)


def test_the_teacher_sees_the_classes_that_were_asked_for(
    teacher: nn.Module, inverted: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
) -> None:
    assert top1(teacher, *inverted) > 90


def test_a_student_learns_real_digits_from_inverted_ones_alone(
    teacher: nn.Module, inverted: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
) -> None:
    """Far above chance (10 %), and above what noise, the teacher's answers to it, teaches on digits this small (66 %)."""
    found = {
        name: top1(taught(network(8, 1), images, logits(teacher, images), 40), *load("test")[:2])
        for name, images in (("inverted", inverted[0]), ("noise", NOISE))
    }
    assert found["inverted"] > 70 and found["inverted"] > found["noise"] + 5


def test_the_same_seed_gives_the_same_bytes(teacher: nn.Module) -> None:
    few: dict[str, Any] = {**INVERSION, "n": 30, "steps": 5, **DIGITS}
    torch.manual_seed(1)
    first = deep_inversion(teacher, **few, seed=3)
    state = torch.random.get_rng_state()
    second, other = deep_inversion(teacher, **few, seed=3), deep_inversion(teacher, **few, seed=4)
    assert first[0].tobytes() == second[0].tobytes() and first[0].tobytes() != other[0].tobytes()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_teacher_is_left_as_it_was(teacher: nn.Module) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    teacher[1].eval()  # type: ignore[index]
    deep_inversion(teacher, **{**INVERSION, "n": 10, "steps": 2}, **DIGITS)
    generate(teacher, n=10, steps=2, batch=16, bn=1.0, **DIGITS)
    assert teacher.training and not teacher[1].training  # type: ignore[index]
    teacher.eval()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in teacher.modules())


def test_labels_differ_in_number_by_one_at_most(teacher: nn.Module) -> None:
    _, labels = deep_inversion(teacher, **{**INVERSION, "n": 13, "steps": 1, "batch": 5}, **DIGITS)
    assert np.bincount(labels).tolist() == [2, 2, 2] + [1] * 7


# the terms


def test_the_statistics_of_a_batch_are_compared_with_those_remembered() -> None:
    """One channel of values 1 and 3 (mean 2, variance 1) against mean 0, variance 4: ‖2‖ + ‖−3‖."""
    layer = nn.BatchNorm2d(1).eval()
    assert layer.running_var is not None
    layer.running_var.fill_(4.0)
    with BatchNormStatistics(layer) as statistics:
        layer(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
        layer(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))  # the last forward pass counts, not both
        assert float(statistics.distance()) == pytest.approx(5.0)


def test_total_variation_is_that_of_neighbours() -> None:
    """[[0, 1], [2, 4]]: across √(1 + 4), down √(4 + 9), one diagonal |2 − 1|, the other |0 − 4|."""
    x = torch.tensor([[0.0, 1.0], [2.0, 4.0]]).view(1, 1, 2, 2)
    assert float(total_variation(x)) == pytest.approx(5**0.5 + 13**0.5 + 1 + 4)


def test_entropy_is_that_of_the_batchs_mean() -> None:
    sure = torch.tensor([[40.0, 0.0], [0.0, 40.0]])
    assert float(negative_entropy(sure)) == pytest.approx(-np.log(2))
    assert float(negative_entropy(sure[:1])) == pytest.approx(0.0, abs=1e-6)


def test_disagreement_is_a_distance_of_logits_and_reaches_both() -> None:
    z_s, z_t = torch.zeros(1, 2, requires_grad=True), torch.tensor([[np.log(3.0), 0.0]], requires_grad=True)
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert disagreement(z_s, z_t, "kl").item() == pytest.approx(expected)
    assert disagreement(z_s, z_t, "l1").item() == pytest.approx(np.log(3.0) / 2)
    disagreement(z_s, z_t, "kl").backward()  # type: ignore[no-untyped-call]
    assert z_s.grad is not None and z_t.grad is not None and z_t.grad.abs().sum() > 0


# generate


def test_the_methods_weights_are_those_of_the_papers() -> None:
    dafl, dfq = METHODS["dafl"], METHODS["dfq"]
    assert (dafl.oh, dafl.act, dafl.bal, dafl.bn, dafl.adv) == (1, 0.001, 20, 0, 0)
    assert (dfq.oh, dfq.act, dfq.bal, dfq.bn, dfq.adv) == (1, 0, 20, 1, 1)


@pytest.mark.slow
def test_the_balance_term_makes_images_of_every_class(teacher: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = generate(teacher, n=200, steps=50, batch=64, **DIGITS)
    assert images.shape == (200, 8, 8, 1) and images.dtype == np.uint8 and labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [20] * 10
    assert top1(teacher, images, labels) == 100 and not capsys.readouterr().err
    images, labels = generate(teacher, n=200, steps=50, batch=64, bal=0.0, **DIGITS)
    assert len(images) == len(labels) == 200 and len(np.unique(labels)) < 10
    assert "images of class" in capsys.readouterr().err


def test_dfqs_images_have_the_teachers_statistics_and_its_rival_learns(teacher: nn.Module) -> None:
    rival = network(4, 2)
    images, labels = generate(teacher, n=200, method="dfq", student=rival, steps=80, batch=64, **DIGITS)
    assert len(np.unique(labels)) == 10
    assert statistics_of(teacher, images) < 0.6 * statistics_of(teacher, NOISE)
    assert top1(rival, images, labels) > 25  # a tenth by chance


def test_the_same_seed_generates_the_same_bytes(teacher: nn.Module) -> None:
    def drawn(seed: int) -> bytes:
        return generate(
            teacher, n=20, method="dfq", student=network(4, 2), adversary="l1", steps=3, batch=16, seed=seed, **DIGITS
        )[0].tobytes()

    assert drawn(1) == drawn(1) != drawn(2)


# killed


class Killed(Exception):
    pass


@contextmanager
def killed_at(model: nn.Module, calls: int) -> Iterator[list[int]]:
    """The model's forward pass of that number ends in Killed; gives the passes made."""
    passes = [0]

    def count(*_: Any) -> None:
        passes[0] += 1
        if passes[0] == calls:
            raise Killed

    handle = model.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


def test_a_killed_inversion_goes_on_after_its_last_whole_batch(teacher: nn.Module, tmp_path: Path) -> None:
    few: dict[str, Any] = {**INVERSION, "n": 30, "batch": 10, "steps": 4, **DIGITS}
    at_once = deep_inversion(teacher, **few)
    with killed_at(teacher, 11), pytest.raises(Killed):
        deep_inversion(teacher, **few, scratch=tmp_path)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["batch-0.npy", "batch-1.npy"]
    with killed_at(teacher, -1) as passes:
        again = deep_inversion(teacher, **few, scratch=tmp_path)
    assert again[0].tobytes() == at_once[0].tobytes() and passes[0] <= 4 + 1  # the classes are counted by a pass


def test_a_killed_generator_goes_on_after_its_last_checkpoint(
    teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(synthesize, "SAVE_EVERY", 2)
    few: dict[str, Any] = {"n": 20, "method": "dfq", "steps": 6, "batch": 16, **DIGITS}
    at_once = generate(teacher, student=network(4, 2), **few)
    with killed_at(teacher, 10), pytest.raises(Killed):  # two passes a step: in the fifth
        generate(teacher, student=network(4, 2), **few, scratch=tmp_path)
    again = generate(teacher, student=network(4, 2), **few, scratch=tmp_path)
    assert "going on after step 4" in capsys.readouterr().err
    assert again[0].tobytes() == at_once[0].tobytes()


# refusals


def test_a_teacher_without_batchnorm_is_refused_where_it_is_needed() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ModelError, match=r"BatchNorm2d .*set bn = 0"):
        deep_inversion(plain, n=10, steps=1, **DIGITS)
    with pytest.raises(ModelError, match=r"BatchNorm2d .*set bn = 0"):
        generate(plain, n=10, method="dfq", student=network(4, 0), steps=1, **DIGITS)
    assert len(deep_inversion(plain, n=10, steps=1, bn=0.0, **DIGITS)[0]) == 10


def test_a_teacher_without_a_linear_layer_has_no_feature() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(ModelError, match=r"Linear .*set act = 0"):
        generate(plain, n=10, steps=1, **DIGITS)


def test_a_teacher_without_gradients_is_told_what_to_give_instead(tmp_path: Path) -> None:
    class FakeOnnxModel(OnnxModel):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    class FakeExportedModel(ExportedModel):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    for model, form in ((FakeOnnxModel(), "onnx:"), (FakeExportedModel(), "exported:")):
        with pytest.raises(ModelError, match=rf"'{form}'.*deep_inversion, dafl, dfq .*python:module:function"):
            deep_inversion(model, n=10, **DIGITS)
        with pytest.raises(ModelError, match=f"'{form}'.*python:module:function"):
            generate(model, n=10, **DIGITS)


def test_dfq_without_a_student_and_an_unknown_method_are_told(teacher: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"'dfq' .*set adv = 0"):
        generate(teacher, n=10, method="dfq", **DIGITS)
    with pytest.raises(ModelError, match=r"'dfqq' .*have: dafl, dfq\. Did you mean dfq\?"):
        generate(teacher, n=10, method="dfqq", **DIGITS)
