"""The training loop: what it learns from, and that a stop changes nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.data.batches import epoch_of
from edgekd.distill.features import Taps
from edgekd.distill.lesson import Lesson
from edgekd.distill.methods.sizes import embedding
from edgekd.distill.objective import TaskObjective
from edgekd.distill.train import CHECKPOINT, Modes, save_weights, schedule, train
from edgekd.errors import CacheError, ModelError, RecipeError
from edgekd.inputs import Image
from edgekd.inputs.image import INPUT
from edgekd.models.accelerator import uses_bf16
from edgekd.models.forward import logits_of
from edgekd.models.resnet import resnet8
from edgekd.recipe import Optimizer
from edgekd.recipe.losses import Loss
from edgekd.steps.record import check_cache
from tests.builders.training import DATA, IDS, LABELS, PIXELS, RNG, lesson_on, network, samples, settings, stored


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.cpu().clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def hard_labels() -> Lesson:
    return lesson_on(samples(), None, None)


def test_labels_alone_teach_the_classes(tmp_path: Path) -> None:
    train(network(), hard_labels(), settings(epochs=8), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"] and lines[-1]["holdout"] > 80
    assert lines[0]["loss"] == pytest.approx(lines[0]["loss/labels"], rel=1e-4)


def test_the_cached_teacher_alone_teaches_what_it_says(tmp_path: Path) -> None:
    """A teacher that calls left right and right left: the student does the same."""
    wrong = np.array([2, 1, 0])[LABELS[:80]]
    cached = np.broadcast_to(np.eye(3, dtype=np.float16)[wrong] * 8, (2, 80, 3))
    lesson = lesson_on(samples(), cached, None)
    taught = train(network(), lesson, settings(epochs=8, label_weight=0.0, losses=(Loss(method="kd"),)), tmp_path)
    with torch.no_grad():
        named = logits_of(taught.eval(), samples().input, {INPUT: PIXELS[80:]}).argmax(1).numpy()
    assert (named == np.array([2, 1, 0])[LABELS[80:]]).mean() > 0.8


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path, ema: float) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = weights(train(network(), hard_labels(), settings(ema=ema), whole))

    class Killed(Exception):
        pass

    def stop_at_third(model: nn.Module, epoch: int) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(network(), hard_labels(), settings(ema=ema), parts, Modes(at_epoch=stop_at_third))
    assert (parts / CHECKPOINT).exists()
    torch.manual_seed(12345)  # another process has another state of torch's generator
    assert same(weights(train(network(), hard_labels(), settings(ema=ema), parts)), expected)


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        out = tmp_path / str(len(found))
        out.mkdir()
        found.append(weights(train(network(), hard_labels(), settings(epochs=1, seed=seed), out)))
    assert same(found[0], found[1]) and not same(found[0], found[2])


def test_feature_losses_read_both_networks_and_leave_the_teacher_alone(tmp_path: Path) -> None:
    teacher, student = network(1).eval().requires_grad_(False), network(2)
    before = weights(teacher)
    losses = (
        Loss(method="fitnet", weight=1.0, layers={"2": "2"}),
        Loss(method="at", weight=10.0, layers={"0": "0"}),
        Loss(method="kd", temperature=2.0),
    )
    cached = np.stack([logits_of(teacher, samples().input, {INPUT: PIXELS[:80]}).numpy().astype(np.float16)] * 2)
    train(student, lesson_on(samples(), cached, teacher), settings(losses=losses), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/labels", "loss/fitnet", "loss/at", "loss/kd"} <= set(lines[0])
    assert lines[-1]["loss/fitnet"] < lines[0]["loss/fitnet"]
    assert same(weights(teacher), before) and not teacher.training


def test_the_shipped_student_has_no_weights_of_the_losses(tmp_path: Path) -> None:
    teacher, student = network(1).eval(), network(2)
    names = set(student.state_dict())
    trained = train(
        student,
        lesson_on(samples(), None, teacher),
        settings(epochs=1, losses=(Loss(method="fitnet", layers={"2": "2"}),)),
        tmp_path,
    )
    assert set(trained.state_dict()) == names


def test_a_layer_that_does_not_exist_is_told_with_the_nearest(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer1(x)  # type: ignore[no-any-return]

    losses = (Loss(method="at", layers={"layr1": "layer1"}),)
    with pytest.raises(ModelError, match=r"'layr1'.*Did you mean layer1"):
        train(Net(), lesson_on(samples(), None, Net()), settings(losses=losses), tmp_path)


def test_a_feature_method_without_layers_and_a_logit_method_with_them_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"losses\.0\.layers: .* at .*layers = \{"):
        TaskObjective([Loss(method="at")], 1.0)
    with pytest.raises(RecipeError, match=r"losses\.0\.layers: .* kd "):
        TaskObjective([Loss(method="kd", layers={"a": "b"})], 1.0)


def test_a_loss_of_weight_zero_is_left_out(tmp_path: Path) -> None:
    train(network(), hard_labels(), settings(epochs=1, losses=(Loss(method="kd", weight=0.0),)), tmp_path)
    assert "loss/kd" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_damaged_checkpoint_is_said_and_training_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / CHECKPOINT).parent.mkdir()
    (tmp_path / CHECKPOINT).write_bytes(b"half a checkpoi")
    train(network(), hard_labels(), settings(epochs=1), tmp_path)
    assert "damaged" in capsys.readouterr().err and len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_loss_that_explodes_stops_with_what_to_lower(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lower distill\.optimizer\.lr"):
        train(network(), hard_labels(), settings(optimizer=Optimizer(lr=1e30)), tmp_path)


def test_the_weight_of_a_loss_rises_over_its_warm_up() -> None:
    (term,) = TaskObjective([Loss(method="kd", weight=2.0, warmup_epochs=4)], 1.0).terms
    assert [term.weight_at(epoch) for epoch in (0, 1, 4, 9)] == [0.0, 0.5, 2.0, 2.0]


def test_the_learning_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    assert schedule(0, 2, 10) < schedule(1, 2, 10) < 1.0
    assert schedule(2, 2, 10) == 1.0
    assert schedule(6, 2, 10) == pytest.approx(0.5)
    assert schedule(10, 2, 10) == pytest.approx(0.0)


def test_a_cache_of_another_teacher_is_noticed(tmp_path: Path) -> None:
    teacher, other = network(1).eval(), network(5).eval()
    lesson = samples()
    images = lesson.views(lesson.train_ids, 0).inputs
    cached = stored(tmp_path, logits_of(teacher, lesson.input, images).numpy()[None])
    check_cache(teacher, cached, lesson)
    with pytest.raises(CacheError, match=r"differ by .*cache --prune"):
        check_cache(other, cached, lesson)


def test_precision_that_is_given_is_kept() -> None:
    assert uses_bf16("bf16") and not uses_bf16("fp32")


def test_a_loss_that_ends_is_neither_computed_nor_counted_afterwards(tmp_path: Path) -> None:
    losses = (Loss(method="tf_kd", weight=1.0, until_epoch=2),)
    train(network(), hard_labels(), settings(epochs=3, losses=losses), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["loss/tf_kd" in line for line in lines] == [True, True, False]
    assert lines[2]["loss"] == pytest.approx(lines[2]["loss/labels"], rel=1e-4)


def test_several_teachers_are_averaged_by_a_method_that_reads_one(tmp_path: Path) -> None:
    first, second = (RNG.normal(size=(2, 80, 3)).astype(np.float16) for _ in range(2))
    found = []
    for i, lesson in enumerate(
        (
            lesson_on(samples(), first, None, more=(second,)),
            lesson_on(samples(), first, None),
            lesson_on(samples(), second, None),
        )
    ):
        (tmp_path / str(i)).mkdir()
        only_kd = settings(epochs=1, losses=(Loss(method="kd"),), optimizer=Optimizer(lr=1e-12))
        train(network(), lesson, only_kd, tmp_path / str(i))
        found.append(json.loads((tmp_path / str(i) / "metrics.jsonl").read_text())["loss/kd"])
    assert found[0] == pytest.approx((found[1] + found[2]) / 2, rel=1e-3) and found[1] != found[2]


def test_the_cache_gives_the_losses_of_the_live_teacher(tmp_path: Path) -> None:
    """To 1e-3 relative: float16 is all that lies between them."""
    teacher = network(1).eval().requires_grad_(False)
    view = samples().views
    cached = np.stack([logits_of(teacher, samples().input, view(IDS[:80], v).inputs).numpy() for v in range(2)]).astype(
        np.float16
    )
    losses = tuple(Loss(method=name, weight=0.1) for name in ("kd", "dkd", "dist", "mse"))
    found = []
    for name, lesson in {
        "live": lesson_on(samples(), None, teacher),
        "cached": lesson_on(samples(), cached, None),
    }.items():
        (tmp_path / name).mkdir()
        # A low learning rate: where training is unstable, any difference grows.
        train(network(2), lesson, settings(epochs=3, losses=losses, optimizer=Optimizer(lr=0.0005)), tmp_path / name)
        found.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    for live, from_cache in zip(*found, strict=True):
        for term in ("loss/kd", "loss/dkd", "loss/dist", "loss/mse"):
            assert from_cache[term] == pytest.approx(live[term], rel=1e-3)


def test_pooled_features_from_the_cache_give_the_losses_of_the_live_teacher(tmp_path: Path) -> None:
    teacher = network(1).eval().requires_grad_(False)
    view = samples().views
    pooled = []
    with Taps(teacher, ["2"], "teacher") as taps:
        for v in range(2):
            logits_of(teacher, samples().input, view(IDS[:80], v).inputs)
            pooled.append(embedding(taps.features["2"]).numpy().astype(np.float16))
    losses = tuple(Loss(method=name, layers={"2": "2"}) for name in ("rkd", "pkt", "cc", "crd"))
    lessons = {
        "live": lesson_on(samples(), None, teacher),
        "cached": lesson_on(samples(), None, None, features={"2": np.stack(pooled)}),
    }
    found = []
    for name, lesson in lessons.items():
        (tmp_path / name).mkdir()
        # A low learning rate: where training is unstable, any difference grows.
        slowly = settings(epochs=2, losses=losses, optimizer=Optimizer(lr=0.0005))
        train(network(2), lesson, slowly, tmp_path / name)
        found.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    for live, from_cache in zip(*found, strict=True):
        for term in ("loss/rkd", "loss/pkt", "loss/cc", "loss/crd"):
            assert from_cache[term] == pytest.approx(live[term], rel=1e-3)


def test_rows_of_other_samples_give_other_losses(tmp_path: Path) -> None:
    """What makes the comparison above one: the figures are precise enough to tell the samples apart."""
    features = RNG.normal(size=(2, 80, 4)).astype(np.float16)
    found = []
    for number, stored_features in enumerate((features, features[:, ::-1])):
        (tmp_path / str(number)).mkdir()
        lesson = lesson_on(samples(), None, None, features={"2": np.ascontiguousarray(stored_features)})
        losses = tuple(Loss(method=name, layers={"2": "2"}) for name in ("rkd", "pkt", "cc"))
        train(network(2), lesson, settings(epochs=1, losses=losses), tmp_path / str(number))
        found.append(json.loads((tmp_path / str(number) / "metrics.jsonl").read_text()))
    for term in ("loss/rkd", "loss/pkt", "loss/cc"):
        assert found[0][term] != pytest.approx(found[1][term], rel=1e-3)


def test_the_last_epoch_ships_whatever_the_splits_say(tmp_path: Path) -> None:
    trained = train(network(), hard_labels(), settings(epochs=5, optimizer=Optimizer(lr=1.0)), tmp_path)
    last = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(last["metrics"]) == 5 and same(weights(trained), last["student"])
    assert max(line["holdout"] for line in lines) > lines[-1]["holdout"]  # another epoch was better there


class Killed(Exception):
    """The training was stopped from outside."""


def stopping_at(epoch: int) -> Modes:
    """Modes that stop a training as this epoch begins, counted from 0."""

    def stop(model: nn.Module, now: int) -> None:
        if now == epoch:
            raise Killed

    return Modes(at_epoch=stop)


def states_of(collected: list[dict[str, torch.Tensor]]) -> Modes:
    """Modes that note the student's weights as each epoch begins, so those of the epoch before."""
    return Modes(at_epoch=lambda model, epoch: collected.append(weights(model)))


UNSTEADY = {"epochs": 6, "optimizer": Optimizer(lr=1.0)}  # its hold-out figures rise and fall


def test_the_best_epoch_on_the_hold_out_split_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states: list[dict[str, torch.Tensor]] = []
    trained = train(network(), hard_labels(), settings(keep="best", **UNSTEADY), tmp_path, states_of(states))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    figures = [line["holdout"] for line in lines]
    best = max(number for number in range(6) if figures[number] == max(figures))  # of equal epochs the later
    assert best < 5, "the last epoch is the best: this shows nothing"
    assert same(weights(trained), states[best + 1])
    assert [line.get("kept") for line in lines] == [1.0 if number == best else None for number in range(6)]
    told = capsys.readouterr().err
    assert f"keeps epoch {best + 1} of 6, the best on the hold-out split" in told
    assert f"epoch 6 of 6, loss {lines[5]['loss']:.4g}, hold-out {figures[5]:.2f} %, best epoch {best + 1}" in told


def test_the_averaged_weights_of_the_best_epoch_are_kept(tmp_path: Path) -> None:
    """They alone give the hold-out figure that the epoch was chosen by; the student's own weights give another."""
    given = settings(keep="best", ema=0.5, **UNSTEADY)
    trained = train(network(), hard_labels(), given, tmp_path).eval()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (kept,) = [line["holdout"] for line in lines if line.get("kept")]
    with torch.no_grad():
        named = logits_of(trained, samples().input, {INPUT: PIXELS[80:]}).argmax(1).numpy()
    assert 100 * (named == LABELS[80:]).mean() == pytest.approx(kept, abs=1e-3)
    assert not same(weights(trained), torch.load(tmp_path / CHECKPOINT, weights_only=True)["student"])


@pytest.mark.parametrize("ema", [0.0, 0.5])
@pytest.mark.parametrize("killed_at", [1, 4])
def test_a_run_that_was_stopped_keeps_the_same_epoch(tmp_path: Path, ema: float, killed_at: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    given = settings(keep="best", patience=4, ema=ema, **UNSTEADY)
    expected = train(network(), hard_labels(), given, whole)
    with pytest.raises(Killed):
        train(network(), hard_labels(), given, parts, stopping_at(killed_at))
    torch.manual_seed(12345)
    save_weights(train(network(), hard_labels(), given, parts), parts / "weights")
    save_weights(expected, whole / "weights")
    assert (parts / "weights").read_bytes() == (whole / "weights").read_bytes()
    found = [
        [line["holdout"] for line in map(json.loads, (place / "metrics.jsonl").read_text().splitlines())]
        for place in (whole, parts)
    ]
    assert found[0] == found[1]


def test_simkd_keeps_the_projector_of_the_best_epoch(tmp_path: Path) -> None:
    teacher = resnet8(3, 1, width=8).eval().requires_grad_(False)
    torch.manual_seed(0)
    given = settings(losses=(Loss(method="simkd", layers={"layer3": "layer3"}),), keep="best", epochs=5)
    trained = train(resnet8(3, 1, width=4), lesson_on(samples(), None, teacher), given, tmp_path).eval()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (kept,) = [line["holdout"] for line in lines if line.get("kept")]
    with torch.no_grad():
        named = logits_of(trained, samples().input, {INPUT: PIXELS[80:]}).argmax(1).numpy()
    assert 100 * (named == LABELS[80:]).mean() == pytest.approx(kept, abs=1e-3)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_patience_ends_the_training_and_a_stopped_run_ends_in_the_same_epoch(
    tmp_path: Path, keep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(keep=keep, patience=2, epochs=30, optimizer=Optimizer(lr=0.05))
    states: list[dict[str, torch.Tensor]] = []
    trained = train(network(), hard_labels(), given, tmp_path, states_of(states))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    figures, ended = [line["holdout"] for line in lines], len(lines)
    assert 2 < ended < 30
    first_best = figures.index(max(figures)) + 1
    assert ended == first_best + 2
    assert f"ends after epoch {ended} of 30; distill.patience = 2" in capsys.readouterr().err
    assert lines[0]["lr"] == pytest.approx(0.05 * schedule(4 / 5, 1, 30))  # the schedule of all 30 epochs
    again = train(network(3), hard_labels(), given, tmp_path, states_of(states))  # its checkpoint is the last epoch's
    assert len(states) == ended and same(weights(again), weights(trained))


def test_a_run_that_was_stopped_draws_the_same_samples_with_balanced_classes(tmp_path: Path) -> None:
    given, found = settings(sampling="balanced", class_weights="balanced"), []
    for killed in (False, True):
        place = tmp_path / str(killed)
        place.mkdir()
        if killed:
            with pytest.raises(Killed):
                train(network(), hard_labels(), given, place, stopping_at(2))
            torch.manual_seed(12345)
        found.append(weights(train(network(), hard_labels(), given, place)))
    assert same(*found)
    (tmp_path / "plain").mkdir()
    plain = settings(class_weights="balanced")
    assert not same(found[0], weights(train(network(), hard_labels(), plain, tmp_path / "plain")))


def test_the_last_epoch_of_a_training_that_ended_early_ships_unless_the_best_is_asked_for(tmp_path: Path) -> None:
    given = settings(patience=2, epochs=30, optimizer=Optimizer(lr=0.05))
    trained = train(network(), hard_labels(), given, tmp_path)
    assert same(weights(trained), torch.load(tmp_path / CHECKPOINT, weights_only=True)["student"])
    assert "kept" not in (tmp_path / "metrics.jsonl").read_text()


def test_pairs_are_two_samples_of_one_class() -> None:
    view = samples().views
    steps = list(epoch_of(view, 3, batch_size=16, number_of_views=2, seed=0, in_pairs=True))
    assert len(steps) == 5
    for step in steps:
        firsts, partners = step.rows[:8], step.rows[8:]
        assert (LABELS[firsts] == LABELS[partners]).all() and (firsts != partners).all()
        assert (step.batch.targets[""] == LABELS[step.rows]).all()


@pytest.mark.parametrize("method", ["simkd", "crd", "dml", "ctkd", "ofd"])
def test_a_run_that_was_stopped_ends_alike_with_methods_that_have_weights(method: str, tmp_path: Path) -> None:
    """Banks, projectors with BatchNorm, peers and a learnt temperature are in the checkpoint, and in their modes."""
    teacher = resnet8(3, 1, width=8).eval().requires_grad_(False)
    found = {}

    class Killed(Exception):
        pass

    def stop_at_third(model: nn.Module, epoch: int) -> None:
        if epoch == 2:
            raise Killed

    for name in ("whole", "parts"):
        torch.manual_seed(0)
        student = resnet8(3, 1, width=4)
        options = {"layers": {"layer3": "layer3"}} if method in ("simkd", "crd", "ofd") else {}
        given = (
            lesson_on(samples(), None, teacher),
            settings(losses=(Loss(method=method, **options),)),
            tmp_path / name,
        )
        (tmp_path / name).mkdir()
        if name == "parts":
            with pytest.raises(Killed):
                train(copy.deepcopy(student), *given, Modes(at_epoch=stop_at_third))
            torch.manual_seed(12345)
        found[name] = weights(train(student, *given))
    assert same(found["whole"], found["parts"])


def test_the_live_teacher_sees_its_own_normalisation(tmp_path: Path) -> None:
    teacher = network(1).eval().requires_grad_(False)
    other = Image((6, 6, 1), (0.7,), (0.1,), DATA.augment)
    view = samples().views
    cached = np.stack([logits_of(teacher, other, view(IDS[:80], v).inputs).numpy() for v in range(2)]).astype(
        np.float16
    )
    lessons = {
        "live": lesson_on(samples(), None, teacher, teacher_input=other),
        "cached": lesson_on(samples(), cached, None),
        "wrong": lesson_on(samples(), None, teacher),
    }
    found = {}
    for name, lesson in lessons.items():
        (tmp_path / name).mkdir()
        given = settings(epochs=1, losses=(Loss(method="kd"),), optimizer=Optimizer(lr=1e-9))
        train(network(2), lesson, given, tmp_path / name)
        found[name] = json.loads((tmp_path / name / "metrics.jsonl").read_text())["loss/kd"]
    assert found["live"] == pytest.approx(found["cached"], rel=1e-3)
    assert found["wrong"] != pytest.approx(found["cached"], rel=0.05)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_student_that_keeps_a_computed_weight_trains(ema: float, tmp_path: Path) -> None:
    """The old weight norm leaves on its layer what the last forward pass computed, which `deepcopy` refuses."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        student = nn.Sequential(
            torch.nn.utils.weight_norm(nn.Conv2d(1, 4, 3, padding=1)), nn.Flatten(), nn.Linear(144, 3)
        )
    student(torch.zeros(2, 1, 6, 6))
    train(student, lesson_on(samples(), None, None), settings(epochs=2, ema=ema), tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[1] < losses[0]


class WritesOver(nn.Module):
    """A student that empties the images that it is given, as `x -= mean` in a forward writes over them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.inner(x.clone())
        x.mul_(0)
        return z


def test_a_student_that_writes_over_its_input_leaves_the_teachers_alone(tmp_path: Path) -> None:
    teacher, seen = network(1).eval().requires_grad_(False), []
    teacher.register_forward_pre_hook(lambda module, inputs: seen.append(float(inputs[0].abs().sum())))
    losses = (Loss(method="fitnet", layers={"inner.2": "2"}),)
    train(WritesOver(), lesson_on(samples(), None, teacher), settings(epochs=1, losses=losses), tmp_path)
    assert len(seen) > 2 and min(seen) > 0
