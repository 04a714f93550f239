"""Every loss against an expectation that is computed independently of it."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.distill.methods import METHODS, FitNet, at, dist, dkd, kd, mse, standardized
from edgekd.tasks.classify import Classify
from edgekd.tasks.protocol import Labels

Z_S = np.array([[1.0, 2.0, -1.0, 0.5], [0.0, 0.0, 3.0, 1.0], [2.0, -2.0, 0.3, 0.1]])
Z_T = np.array([[3.0, 1.0, 0.0, -1.0], [0.2, -0.5, 4.0, 0.0], [1.0, 0.0, 0.5, 2.0]])
LABELS = np.array([0, 2, 3])
LOGIT_METHODS: dict[str, Callable[..., Tensor]] = {"kd": kd, "mse": mse, "dkd": dkd, "dist": dist}


def softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    return (p * np.log(p / q)).sum(1)


def t(x: NDArray[np.float64]) -> Tensor:
    return torch.tensor(x)


def test_kd_of_two_classes_by_hand() -> None:
    """Teacher 3:1 (logits ln 3, 0), student 1:1, T = 1: KL = 0.75 ln 1.5 + 0.25 ln 0.5."""
    value = kd(torch.zeros(1, 2), torch.tensor([[log(3), 0.0]]), temperature=1.0)
    assert value.item() == pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_t_squared_kl_summed_over_classes_and_averaged_over_the_batch(temperature: float) -> None:
    expected = temperature**2 * kl(softmax(Z_T / temperature), softmax(Z_S / temperature)).mean()
    assert kd(t(Z_S), t(Z_T), temperature=temperature).item() == pytest.approx(expected, rel=1e-5)


def test_kds_gradient_at_high_temperature_is_that_of_centred_logit_regression() -> None:
    """Hinton et al., equation 4: for T much larger than the logits, dC/dz = (z_s - z_t) / classes for centred logits."""
    z_s = t(Z_S - Z_S.mean(1, keepdims=True)).requires_grad_()
    kd(z_s, t(Z_T - Z_T.mean(1, keepdims=True)), temperature=1e3).backward()
    expected = (Z_S - Z_S.mean(1, keepdims=True) - Z_T + Z_T.mean(1, keepdims=True)) / 4 / 3
    assert z_s.grad is not None
    np.testing.assert_allclose(z_s.grad.numpy(), expected, atol=2e-3)


def test_mse_is_half_the_squared_distance() -> None:
    assert mse(t(Z_S), t(Z_T)).item() == pytest.approx(0.5 * ((Z_S - Z_T) ** 2).sum(1).mean(), rel=1e-5)


def test_dkd_with_the_weights_of_the_identity_is_kd() -> None:
    """KL = TCKD + (1 - p_t[y]) NCKD, for each sample (Zhao et al., equation 5)."""
    for i in range(len(Z_S)):
        z_s, z_t, label = t(Z_S[i : i + 1]), t(Z_T[i : i + 1]), torch.tensor(LABELS[i : i + 1])
        others = 1 - softmax(Z_T[i : i + 1] / 4)[0, LABELS[i]]
        assert dkd(z_s, z_t, label, alpha=1.0, beta=float(others)).item() == pytest.approx(
            kd(z_s, z_t).item(), rel=1e-5
        )


def test_dkds_terms_are_the_binary_and_the_non_target_divergence() -> None:
    temperature = 4.0
    p_s, p_t = softmax(Z_S / temperature), softmax(Z_T / temperature)
    rows = np.arange(3)
    pair_s, pair_t = (np.stack([p[rows, LABELS], 1 - p[rows, LABELS]], 1) for p in (p_s, p_t))
    others = ~np.eye(4, dtype=bool)[LABELS]
    q_s, q_t = (p[others].reshape(3, 3) / (1 - p[rows, LABELS])[:, None] for p in (p_s, p_t))
    expected = temperature**2 * (1.0 * kl(pair_t, pair_s).mean() + 8.0 * kl(q_t, q_s).mean())
    assert dkd(t(Z_S), t(Z_T), torch.tensor(LABELS)).item() == pytest.approx(expected, rel=1e-5)


def test_dkds_other_classes_do_not_see_a_large_target() -> None:
    """The target is masked out, not pushed down by a number that a large logit would outweigh."""
    z_s, z_t = t(Z_S), t(Z_T)
    rows = torch.arange(3), torch.tensor(LABELS)
    expected = dkd(z_s, z_t, torch.tensor(LABELS), alpha=0.0)
    for z in (z_s, z_t):
        z[rows] += 5000
    assert dkd(z_s, z_t, torch.tensor(LABELS), alpha=0.0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_mixed_labels_count_by_their_shares() -> None:
    """-(0.7 log p[own] + 0.3 log p[partner]) of the first row of Z_S, by hand."""
    p = softmax(Z_S[:1])[0]
    labels = Labels(torch.tensor([1]), torch.tensor([3]), torch.tensor([0.7]))
    assert Classify(()).label_loss(t(Z_S[:1]), labels).item() == pytest.approx(
        -0.7 * log(p[1]) - 0.3 * log(p[3]), rel=1e-6
    )


def test_dist_is_one_minus_the_mean_correlations_of_rows_and_columns() -> None:
    p_s, p_t = softmax(Z_S / 4), softmax(Z_T / 4)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p_s, p_t, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p_s.T, p_t.T, strict=True)])
    expected = 16 * (2.0 * (1 - rows) + 3.0 * (1 - columns))
    assert dist(t(Z_S), t(Z_T), beta=2.0, gamma=3.0).item() == pytest.approx(expected, rel=1e-5)


def test_at_compares_normalised_maps_of_mean_squared_channels() -> None:
    rng = np.random.default_rng(0)
    f_s, f_t = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 5, 4, 4))
    maps = [(f**2).mean(1).reshape(2, -1) for f in (f_s, f_t)]
    a_s, a_t = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps)
    assert at([t(f_s)], [t(f_t)]).item() == pytest.approx(((a_s - a_t) ** 2).mean(), rel=1e-5)


def test_at_pools_the_larger_map_to_the_smaller() -> None:
    f_t = torch.rand(2, 5, 8, 8)
    pooled = torch.nn.functional.avg_pool2d(f_t, 2)
    f_s = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(at([f_s], [f_t]), at([f_s], [pooled]))


def test_fitnet_is_the_mean_squared_error_of_a_linear_map_of_channels() -> None:
    method, f_s, f_t = FitNet(), torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)
    value = method([f_s], [f_t])
    weight, bias = (p.detach().numpy() for p in method.regressors[0].parameters())
    mapped = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], f_s.numpy()) + bias[None, :, None, None]
    assert value.item() == pytest.approx(((mapped - f_t.numpy()) ** 2).mean(), rel=1e-5)


def test_standardized_logits_forget_scale_and_shift() -> None:
    torch.testing.assert_close(standardized(t(3 * Z_S + 7)), standardized(t(Z_S)), rtol=1e-5, atol=1e-6)
    assert standardized(t(Z_S)).std(1).tolist() == pytest.approx([1.0] * 3, rel=1e-5)


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_standardize_applies_to_both_sides_before_the_temperature(name: str) -> None:
    method, labels = LOGIT_METHODS[name], torch.tensor(LABELS)
    prepared = method(standardized(t(Z_S)), standardized(t(Z_T)), labels)
    torch.testing.assert_close(method(t(Z_S), t(Z_T), labels, standardize=True), prepared)


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_a_perfect_student_has_no_loss(name: str) -> None:
    assert LOGIT_METHODS[name](t(Z_T), t(Z_T), torch.tensor(LABELS)).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_the_gradient_is_that_of_finite_differences(name: str, standardize: bool) -> None:
    z_s, labels = t(Z_S).requires_grad_(), torch.tensor(LABELS)
    assert torch.autograd.gradcheck(lambda z: LOGIT_METHODS[name](z, t(Z_T), labels, standardize=standardize), z_s)


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    z_s, z_t = t(Z_S).requires_grad_(), t(Z_T).requires_grad_()
    LOGIT_METHODS[name](z_s, z_t, torch.tensor(LABELS)).backward()
    assert z_t.grad is None
    assert z_s.grad is not None and z_s.grad.abs().sum() > 0


def test_no_gradient_reaches_the_teachers_features() -> None:
    f_s, f_t = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4, requires_grad=True)
    (at([f_s], [f_t]) + FitNet()([f_s], [f_t])).backward()
    assert f_t.grad is None and f_s.grad is not None


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_extreme_logits_in_half_precision_give_finite_losses_and_gradients(name: str) -> None:
    z_s = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 0.0, 6e4]], dtype=torch.float16, requires_grad=True)
    z_t = torch.tensor([[-6e4, 6e4, 0.0], [0.0, 6e4, -6e4]], dtype=torch.float16)
    value = LOGIT_METHODS[name](z_s / 256, z_t / 256, torch.tensor([0, 1]))
    value.backward()
    assert value.dtype == torch.float32 and torch.isfinite(value)
    assert z_s.grad is not None and torch.isfinite(z_s.grad).all()


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    order = [2, 0, 1]
    mixed = LOGIT_METHODS[name](t(Z_S[order]), t(Z_T[order]), torch.tensor(LABELS[order]))
    torch.testing.assert_close(mixed, LOGIT_METHODS[name](t(Z_S), t(Z_T), torch.tensor(LABELS)))


def test_every_method_says_what_it_needs_in_the_words_of_the_trainer() -> None:
    words = {"z_s", "z_t", "z_ts", "labels", "m_s", "m_t", "mask", "f_s", "f_t", "arguments", "rows", "epoch"}
    about = {"student", "teacher", "classes", "samples", "paths"}
    for name, method in METHODS.items():
        assert {"z_s", "f_s", "m_s"} & set(method.needs), name
        assert set(method.needs) <= words, name
        assert set(method.prepare_needs) <= words | about, name
