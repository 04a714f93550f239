"""The logit methods beyond those of test_methods.py, each against an expectation computed independently of it."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, log, pi
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.distill import methods
from edgekd.distill.methods.bce import bce
from edgekd.distill.methods.ca_mkd import ca_mkd
from edgekd.distill.methods.cs_kd import cs_kd
from edgekd.distill.methods.ctkd import CTKD
from edgekd.distill.methods.declare import about
from edgekd.distill.methods.eb_kd import eb_kd
from edgekd.distill.methods.kd import kd
from edgekd.distill.methods.lwf import lwf
from edgekd.distill.methods.mlkd import mlkd
from edgekd.distill.methods.nkd import nkd
from edgekd.distill.methods.standardize import standardized
from edgekd.distill.methods.tf_kd import tf_kd
from edgekd.distill.methods.wsld import wsld

Array = NDArray[np.float64]
Method = Callable[[Tensor, Tensor, Tensor], Tensor]

BATCH, CLASSES = 4, 5
RNG = np.random.default_rng(0)
Z_S, Z_T, Z_T2, Z_T3 = (2 * RNG.normal(size=(BATCH, CLASSES)) for _ in range(4))
LABELS = np.array([0, 2, 3, 2])
ROWS = np.arange(BATCH)


def of_pairs(z_s: Tensor, z_t: Tensor, labels: Tensor) -> Tensor:
    """cs_kd where the second half of the batch is what others call the teacher's logits."""
    return cs_kd(torch.cat([z_s, z_t]), labels.repeat(2))


def two_teachers(z_t: Tensor) -> Tensor:
    return torch.stack([z_t, z_t.roll(1, dims=1)])


def ctkd(z_s: Tensor, z_t: Tensor, labels: Tensor) -> Tensor:
    return CTKD().to(z_s.dtype if z_s.dtype == torch.float64 else torch.float32)(z_s, z_t, labels, 5.0)


METHODS: dict[str, Method] = {
    "bce": bce,
    "nkd": nkd,
    "nkd of small images": lambda z_s, z_t, y: nkd(z_s, z_t, y, temperature=3.0, gamma=3.5, standardize=True),
    "wsld": wsld,
    "ctkd": ctkd,
    "mlkd": mlkd,
    "mlkd standardized": lambda z_s, z_t, y: mlkd(z_s, z_t, y, standardize=True),
    "tf_kd": lambda z_s, z_t, y: tf_kd(z_s, y),
    "cs_kd": of_pairs,
    "eb_kd": lambda z_s, z_t, y: eb_kd(z_s, two_teachers(z_t), y),
    "ca_mkd": lambda z_s, z_t, y: ca_mkd(z_s, two_teachers(z_t), y),
    "lwf": lambda z_s, z_t, y: lwf(z_s, z_t[:, :3], y),
}

# Each is kd, given the temperature.
KINDS_OF_KD: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "cs_kd": lambda z_s, z_t, y, t: cs_kd(torch.cat([z_s, z_t]), y.repeat(2), temperature=t),
    "eb_kd of one teacher": lambda z_s, z_t, y, t: eb_kd(z_s, z_t[None], y, temperature=t),
    "ca_mkd of one teacher": lambda z_s, z_t, y, t: ca_mkd(z_s, z_t[None], y, temperature=t),
    "eb_kd of equal teachers": lambda z_s, z_t, y, t: eb_kd(z_s, z_t.repeat(3, 1, 1), y, temperature=t),
    "ca_mkd of equal teachers": lambda z_s, z_t, y, t: ca_mkd(z_s, z_t.repeat(3, 1, 1), y, temperature=t),
    "lwf without new classes": lambda z_s, z_t, y, t: lwf(z_s, z_t, y, temperature=t),
    "ctkd of a fixed temperature": lambda z_s, z_t, y, t: CTKD(start=t, span=0.0)(z_s, z_t, y, 0.0),
}


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p: Array, q: Array) -> Array:
    return (p * np.log(p / q)).sum(-1)


def ce(z: Array) -> Array:
    return -np.log(softmax(z)[ROWS, LABELS])


def z_score(z: Array) -> Array:
    return (z - z.mean(1, keepdims=True)) / (z.std(1, ddof=1, keepdims=True) + 1e-7)


def t(x: Array) -> Tensor:
    return torch.tensor(x)


def given() -> tuple[Tensor, Tensor, Tensor]:
    return t(Z_S), t(Z_T), torch.tensor(LABELS)


def kd_gradient(temperature: float) -> Array:
    """Of `T² KL`, averaged over the batch alone: `T (p_s − p_t) / batch`."""
    return temperature * (softmax(Z_S / temperature) - softmax(Z_T / temperature)) / BATCH


def gradient(loss: Callable[[Tensor], Tensor]) -> Array:
    z_s = t(Z_S).requires_grad_()
    loss(z_s).backward()
    assert z_s.grad is not None
    return z_s.grad.numpy()


# Values.


def test_bce_of_two_classes_by_hand() -> None:
    """Student σ(0) = 1/2 twice: each class costs ln 2, whatever the teacher says; they are added."""
    assert bce(torch.zeros(3, 2), torch.rand(3, 2)).item() == pytest.approx(2 * log(2), rel=1e-6)


def test_bce_asks_each_class_for_the_teachers_probability() -> None:
    p_s, p_t = 1 / (1 + np.exp(-Z_S)), softmax(Z_T)
    expected = -(p_t * np.log(p_s) + (1 - p_t) * np.log(1 - p_s)).sum(1).mean()
    assert bce(t(Z_S), t(Z_T)).item() == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(gradient(lambda z: bce(z, t(Z_T))), (p_s - p_t) / BATCH, rtol=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("temperature", "gamma"), [(1.0, 1.5), (3.0, 3.5)])
def test_nkd_softens_and_squares_the_temperature_on_the_other_classes_alone(
    temperature: float, gamma: float, standardize: bool
) -> None:
    z_s, z_t = (z_score(Z_S), z_score(Z_T)) if standardize else (Z_S, Z_T)
    expected = []
    for i, y in enumerate(LABELS):
        on_target = -softmax(z_t)[i, y] * np.log(softmax(z_s)[i, y])
        q_s, q_t = (softmax(np.delete(z[i], y) / temperature) for z in (z_s, z_t))
        expected.append(on_target - gamma * temperature**2 * (q_t * np.log(q_s)).sum())
    value = nkd(*given(), temperature=temperature, gamma=gamma, standardize=standardize)
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_nkds_other_classes_do_not_see_a_large_target() -> None:
    """Masked with −1000 a target of 5000 would stay the largest logit."""
    z_s, z_t, labels = given()
    on_others = nkd(z_s, z_t, labels, gamma=1.0) - nkd(z_s, z_t, labels, gamma=0.0)
    for z in (z_s, z_t):
        z[ROWS, LABELS] += 5000
    torch.testing.assert_close(nkd(z_s, z_t, labels, gamma=1.0) - nkd(z_s, z_t, labels, gamma=0.0), on_others)


@pytest.mark.parametrize("standardize", [False, True])
def test_wsld_weighs_kd_by_how_much_better_the_teacher_knows_the_label(standardize: bool) -> None:
    z_s, z_t = (z_score(Z_S), z_score(Z_T)) if standardize else (Z_S, Z_T)
    weight = 1 - np.exp(-ce(Z_S) / ce(Z_T))
    expected = 2.0**2 * (weight * kl(softmax(z_t / 2), softmax(z_s / 2))).mean()
    assert wsld(*given(), standardize=standardize).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_wslds_weight_carries_no_gradient(temperature: float) -> None:
    weight = (1 - np.exp(-ce(Z_S) / ce(Z_T)))[:, None]
    found = gradient(lambda z: wsld(z, t(Z_T), torch.tensor(LABELS), temperature=temperature))
    np.testing.assert_allclose(found, weight * kd_gradient(temperature), rtol=1e-5)


def test_wsld_of_a_certain_teacher_is_kd_and_nothing_where_the_student_is_certain_too() -> None:
    certain = torch.tensor([[500.0, 0.0, 0.0]])
    z_s, label = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0])
    torch.testing.assert_close(wsld(z_s, certain, label), kd(z_s, certain, temperature=2.0))
    assert wsld(2 * certain, certain, label).item() == 0.0


@pytest.mark.parametrize("theta", [-2.0, 0.0, 1.0])
def test_ctkd_is_kd_at_the_temperature_of_theta(theta: float) -> None:
    method = CTKD().double()
    torch.nn.init.constant_(method.theta, theta)
    expected = kd(t(Z_S), t(Z_T), temperature=1 + 20 / (1 + np.exp(-theta)))
    torch.testing.assert_close(method(*given(), 3.0), expected)


@pytest.mark.parametrize(
    ("warmup", "epoch", "strength"),
    [(10.0, 0.0, 0.0), (10.0, 2.5, (1 - cos(pi / 4)) / 2), (10.0, 5.0, 0.5), (10.0, 99.0, 1.0), (0.0, 0.0, 1.0)],
)
def test_ctkds_theta_climbs_the_loss_with_a_strength_that_grows_over_the_warmup(
    warmup: float, epoch: float, strength: float
) -> None:
    method, step = CTKD(warmup=warmup).double(), 1e-5
    method(*given(), epoch).backward()

    def value(theta: float) -> float:
        temperature = 1 + 20 / (1 + np.exp(-theta))
        return float(temperature**2 * kl(softmax(Z_T / temperature), softmax(Z_S / temperature)).mean())

    slope = (value(1 + step) - value(1 - step)) / (2 * step)
    assert abs(slope) > 1e-3
    assert method.theta.grad is not None
    assert method.theta.grad.item() == pytest.approx(-strength * slope, rel=1e-5, abs=1e-12)


def test_ctkd_standardizes_both_sides_before_the_temperature() -> None:
    z_s, z_t, labels = given()
    prepared = CTKD().double()(standardized(z_s), standardized(z_t), labels, 1.0)
    torch.testing.assert_close(CTKD(standardize=True).double()(z_s, z_t, labels, 1.0), prepared)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("batch", [3, 4])
def test_mlkd_aligns_samples_and_both_correlations_where_the_teacher_is_unsure(batch: int, standardize: bool) -> None:
    z_s, z_t = Z_S[:batch], Z_T[:batch]
    confidence, of_classes = softmax(z_t).max(1), softmax(z_t).sum(0)
    samples = np.flatnonzero(confidence <= np.percentile(confidence, 50))
    classes = np.flatnonzero(of_classes <= np.percentile(of_classes, 50))
    assert len(samples) == 2 and len(classes) == 3
    expected = 0.0
    for temperature in (2, 3, 4, 5, 6):
        for i in samples:
            pair = (z_score(z_t), z_score(z_s)) if standardize else (z_t, z_s)
            p_t, p_s = (softmax(z[i] / temperature) for z in pair)
            expected += temperature**2 * kl(p_t, p_s) / batch
        p_s, p_t = softmax(z_s / temperature), softmax(z_t / temperature)
        for i in samples:
            expected += sum((p_t[i] @ p_t[j] - p_s[i] @ p_s[j]) ** 2 for j in range(batch)) / batch
        for c in classes:
            expected += sum((p_t[:, c] @ p_t[:, d] - p_s[:, c] @ p_s[:, d]) ** 2 for d in range(CLASSES)) / CLASSES
    assert mlkd(t(z_s), t(z_t), standardize=standardize).item() == pytest.approx(expected, rel=1e-6)


def test_mlkds_correlations_stay_in_float32_under_autocast() -> None:
    z_s, z_t = t(Z_S).float(), t(Z_T).float()
    with torch.autocast("cpu", torch.bfloat16):
        value = mlkd(z_s, z_t)
    torch.testing.assert_close(value, mlkd(z_s, z_t), rtol=1e-6, atol=0.0)


def test_tf_kd_softens_the_probabilities_of_the_virtual_teacher_and_leaves_the_student() -> None:
    expected = []
    for i, y in enumerate(LABELS):
        p_d = np.array([0.9 if c == y else 0.1 / (CLASSES - 1) for c in range(CLASSES)])
        expected.append(kl(softmax(p_d / 5), softmax(Z_S)[i]))
    value = tf_kd(t(Z_S), torch.tensor(LABELS), correct=0.9, temperature=5.0)
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_tf_kd_of_two_classes_by_hand() -> None:
    """Probabilities 0.99 and 0.01 at T = 0.98 differ by 1 there, as the student's logits do: no loss."""
    assert tf_kd(torch.tensor([[3.0, 2.0]]), torch.tensor([0]), temperature=0.98).item() == pytest.approx(0, abs=1e-7)
    swapped = tf_kd(torch.tensor([[3.0, 2.0]]), torch.tensor([1]), temperature=0.98).item()
    odds = np.e / (1 + np.e)
    assert swapped == pytest.approx(2 * odds - 1, rel=1e-6)  # KL of (1 − o, o) and (o, 1 − o), whose log odds is 1


def test_eb_kd_counts_sure_teachers_more() -> None:
    z_ts = np.stack([Z_T, Z_T2, Z_T3])
    p = softmax(z_ts)
    entropy = -(p * np.log(p)).sum(2)
    weights = (1 - entropy / entropy.sum(0)) / 2
    np.testing.assert_allclose(weights.sum(0), 1)
    expected = 16 * (weights * kl(softmax(z_ts / 4), softmax(Z_S / 4))).sum(0).mean()
    assert eb_kd(t(Z_S), t(z_ts)).item() == pytest.approx(expected, rel=1e-6)


def test_ca_mkd_counts_teachers_that_know_the_label_more() -> None:
    z_ts = np.stack([Z_T, Z_T2, Z_T3])
    shares = np.exp([ce(z) for z in z_ts])
    weights = (1 - shares / shares.sum(0)) / 2
    np.testing.assert_allclose(weights.sum(0), 1)
    expected = 16 * (weights * kl(softmax(z_ts / 4), softmax(Z_S / 4))).sum(0).mean()
    assert ca_mkd(t(Z_S), t(z_ts), torch.tensor(LABELS)).item() == pytest.approx(expected, rel=1e-9)


def test_of_a_sure_wrong_and_an_unsure_teacher_eb_kd_hears_the_first_and_ca_mkd_the_second() -> None:
    wrong, unsure = torch.tensor([[0.0, 40.0]]), torch.tensor([[0.5, 0.0]])
    z_s, label, z_ts = torch.zeros(1, 2), torch.tensor([0]), torch.stack([wrong, unsure])
    torch.testing.assert_close(eb_kd(z_s, z_ts, label), kd(z_s, wrong))
    torch.testing.assert_close(ca_mkd(z_s, z_ts, label), kd(z_s, unsure))


def test_eb_kd_of_teachers_that_are_all_certain_counts_them_alike() -> None:
    first, second = torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 900.0]])
    z_s = torch.tensor([[0.0, 1.0]])
    expected = (kd(z_s, first) + kd(z_s, second)) / 2
    torch.testing.assert_close(eb_kd(z_s, torch.stack([first, second])), expected)


def test_lwf_compares_the_distributions_among_the_old_classes() -> None:
    expected = 4 * kl(softmax(Z_T[:, :3] / 2), softmax(Z_S[:, :3] / 2)).mean()
    z_s = t(Z_S)
    assert lwf(z_s, t(Z_T[:, :3])).item() == pytest.approx(expected, rel=1e-9)
    z_s[:, 3:] += 100
    assert lwf(z_s, t(Z_T[:, :3])).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", KINDS_OF_KD)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kinds_of_kd_are_kd(name: str, temperature: float) -> None:
    value = KINDS_OF_KD[name](*given(), temperature).item()
    expected = temperature**2 * kl(softmax(Z_T / temperature), softmax(Z_S / temperature)).mean()
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", KINDS_OF_KD)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_their_gradient_is_divided_by_the_batch_alone_and_keeps_its_size_as_t_grows(
    name: str, temperature: float
) -> None:
    """`reduction="mean"` would divide by the classes too, and without T² it would fall with T² itself."""
    _, z_t, labels = given()
    found = gradient(lambda z: KINDS_OF_KD[name](z, z_t, labels, temperature))
    np.testing.assert_allclose(found, kd_gradient(temperature), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["wsld", "ctkd", "mlkd", "mlkd standardized", "cs_kd"])
def test_a_perfect_student_has_no_loss(name: str) -> None:
    _, z_t, labels = given()
    assert METHODS[name](z_t.clone(), z_t, labels).item() == pytest.approx(0.0, abs=1e-12)


# What holds for all of them.


@pytest.mark.parametrize("name", [name for name in METHODS if name != "wsld"])
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    """wsld's is not: its weight is held constant, and test_wslds_weight_carries_no_gradient says what it is."""
    z_s, z_t, labels = given()
    assert torch.autograd.gradcheck(lambda z: METHODS[name](z, z_t, labels), z_s.requires_grad_())


@pytest.mark.parametrize("name", METHODS)
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    z_s, z_t, labels = given()
    METHODS[name](z_s.requires_grad_(), z_t.requires_grad_(), labels).backward()
    assert z_t.grad is None or not z_t.grad.any()
    assert z_s.grad is not None and z_s.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_extreme_logits_in_half_precision_give_finite_losses_and_gradients(name: str, dtype: torch.dtype) -> None:
    big = 6e4
    rows_s = [[big, -big, 0, big, -big], [-big, 0, big, 0, 0], [big, big, -big, -big, -big], [-big, 0, 0, 0, big]]
    rows_t = [[-big, big, 0, 0, 0], [0, big, -big, big, -big], [big, -big, -big, -big, -big], [-big, 0, 0, 0, big]]
    z_s, z_t = torch.tensor(rows_s, dtype=dtype, requires_grad=True), torch.tensor(rows_t, dtype=dtype)
    value = METHODS[name](z_s, z_t, torch.tensor([0, 1, 0, 4]))
    value.backward()
    assert value.dtype == torch.float32 and value.shape == () and torch.isfinite(value)
    assert z_s.grad is not None and torch.isfinite(z_s.grad).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    order = [2, 0, 3, 1]
    mixed = METHODS[name](t(Z_S[order]), t(Z_T[order]), torch.tensor(LABELS[order]))
    torch.testing.assert_close(mixed, METHODS[name](*given()))


@pytest.mark.parametrize("name", [name for name in METHODS if "mlkd" not in name])
def test_the_same_batch_twice_is_worth_no_more(name: str) -> None:
    """mlkd apart, whose correlations are sums over the batch."""
    twice = METHODS[name](t(Z_S).repeat(2, 1), t(Z_T).repeat(2, 1), torch.tensor(LABELS).repeat(2))
    torch.testing.assert_close(twice, METHODS[name](*given()))


# What they refuse, and what they say of themselves.


def test_autocast_does_not_lower_the_precision_of_any_method_of_logits() -> None:
    """The training loop computes the losses inside of it."""
    torch.manual_seed(0)
    z_s, z_t, labels = torch.randn(16, 10), torch.randn(16, 10), torch.randint(10, (8,)).repeat(2)
    shown: dict[str, Any] = {
        "z_s": z_s,
        "z_t": z_t,
        "z_ts": torch.stack([z_t, z_t.flip(0)]),
        "labels": labels,
        "epoch": 3.0,
    }
    tried = 0
    for method in methods.METHODS.values():
        if not set(method.needs) <= shown.keys():
            continue
        called: Any = method.call() if isinstance(method.call, type) else method.call
        if method.prepare is not None:
            method.prepare(called, z_s)
        shown["labels"] = torch.rand(16, 10) if method.rows == ("values",) else labels
        plain = called(*(shown[name] for name in method.needs))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(called(*(shown[name] for name in method.needs)), plain, rtol=0, atol=0)
        tried += 1
    assert tried >= 14


def test_cs_kd_asks_the_trainer_for_pairs() -> None:
    assert about(cs_kd).pairs


@pytest.mark.parametrize(
    ("labels", "said"),
    [([0, 1, 0], "cs_kd: .*3 samples"), ([0, 1, 0, 2], "cs_kd: 1 of 2 pairs")],
)
def test_cs_kd_refuses_what_is_not_pairs(labels: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cs_kd(torch.zeros(len(labels), 3), torch.tensor(labels))


def test_lwf_refuses_a_teacher_of_more_classes_than_the_student() -> None:
    with pytest.raises(ValueError, match=r"lwf: .*5 classes .* 3 "):
        lwf(t(Z_S[:, :3]), t(Z_T))
