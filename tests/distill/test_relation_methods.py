"""Relational losses and CRD against expectations that are computed with loops, by hand, or by an identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import product
from math import exp, log, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.distill.methods.cc import cc
from edgekd.distill.methods.crd import CRD
from edgekd.distill.methods.declare import about
from edgekd.distill.methods.irg import IRG
from edgekd.distill.methods.pkt import pkt
from edgekd.distill.methods.rkd import rkd
from edgekd.distill.methods.sizes import embedding
from edgekd.distill.methods.sp import sp
from edgekd.errors import RecipeError

Array = NDArray[np.float64]
N = 5
F_S, F_T = np.random.default_rng(0).normal(size=(N, 3)), np.random.default_rng(1).normal(size=(N, 4))
RELATIONS: dict[str, Callable[..., Tensor]] = {"rkd": rkd, "sp": sp, "cc": cc, "pkt": pkt}
ROTATION = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
LABELS, ROWS, SAMPLES = torch.tensor([0, 1, 0, 2, 1]), torch.tensor([3, 0, 6, 2, 5]), 7


def t(x: Array) -> Tensor:
    return torch.tensor(x)


def smooth_l1(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def pairs() -> Iterator[tuple[int, int]]:
    return product(range(N), range(N))


def expected_rkd(f_s: Array, f_t: Array) -> float:
    def distances(f: Array) -> dict[tuple[int, int], float]:
        d = {(i, j): sqrt(sum((f[i] - f[j]) ** 2)) for i, j in pairs()}
        mean = float(np.mean([x for x in d.values() if x > 0]))
        return {key: x / mean for key, x in d.items()}

    def angle(f: Array, i: int, j: int, k: int) -> float:
        return 0.0 if i in (j, k) else cosine(f[j] - f[i], f[k] - f[i])

    d_s, d_t = distances(f_s), distances(f_t)
    by_distance = np.mean([smooth_l1(d_s[key] - d_t[key]) for key in d_s])
    triplets = product(range(N), range(N), range(N))
    by_angle = np.mean([smooth_l1(angle(f_s, *key) - angle(f_t, *key)) for key in triplets])
    return float(25 * by_distance + 50 * by_angle)


def expected_sp(f_s: Array, f_t: Array) -> float:
    total = 0.0
    g_s, g_t = ([[float(f[i] @ f[j]) for j in range(N)] for i in range(N)] for f in (f_s, f_t))
    for i, j in pairs():
        total += (g_s[i][j] / sqrt(sum(x * x for x in g_s[i])) - g_t[i][j] / sqrt(sum(x * x for x in g_t[i]))) ** 2
    return total / N**2


def expected_cc(f_s: Array, f_t: Array) -> float:
    """Order 2, gamma 0.4: e^-0.8 (1 + 0.8 c + 0.32 c²)."""

    def kernel(f: Array, i: int, j: int) -> float:
        c = cosine(f[i], f[j])
        return exp(-0.8) * (1 + 0.8 * c + 0.32 * c * c)

    return float(np.mean([(kernel(f_s, i, j) - kernel(f_t, i, j)) ** 2 for i, j in pairs()]))


def expected_pkt(f_s: Array, f_t: Array) -> float:
    def probability(f: Array, i: int, j: int) -> float:
        return (cosine(f[i], f[j]) + 1) / sum(cosine(f[i], f[k]) + 1 for k in range(N))

    terms = [probability(f_t, i, j) * log(probability(f_t, i, j) / probability(f_s, i, j)) for i, j in pairs()]
    return sum(terms) / N**2


EXPECTED = {"rkd": expected_rkd, "sp": expected_sp, "cc": expected_cc, "pkt": expected_pkt}


@pytest.mark.parametrize("name", RELATIONS)
def test_a_relation_is_what_loops_over_pairs_and_triplets_give(name: str) -> None:
    assert RELATIONS[name]([t(F_S)], [t(F_T)]).item() == pytest.approx(EXPECTED[name](F_S, F_T), rel=2e-5)


@pytest.mark.parametrize("name", RELATIONS)
def test_layers_add_up(name: str) -> None:
    method, swapped = RELATIONS[name], EXPECTED[name](F_T, F_S)
    both = method([t(F_S), t(F_T)], [t(F_T), t(F_S)]).item()
    assert both == pytest.approx(EXPECTED[name](F_S, F_T) + swapped, rel=2e-5)


def test_rkd_of_an_isosceles_right_triangle_and_three_points_on_a_line_by_hand() -> None:
    """Sides 1, 1, √2 against 1, 1, 2; at the right angle the cosine is 0 against -1, at the others √½ against 1."""
    triangle, line = torch.tensor([[1.0, 0], [0, 0], [0, 1]]).double(), torch.tensor([[-1.0], [0], [1]]).double()
    mean_s, mean_t = (2 + sqrt(2)) / 3, 4 / 3
    by_distance = (4 * smooth_l1(1 / mean_s - 1 / mean_t) + 2 * smooth_l1(sqrt(2) / mean_s - 2 / mean_t)) / 9
    assert rkd([triangle], [line], angle=0.0).item() == pytest.approx(25 * by_distance)
    by_angle = (2 * smooth_l1(1.0) + 4 * smooth_l1(sqrt(0.5) - 1)) / 27
    assert rkd([triangle], [line], distance=0.0).item() == pytest.approx(50 * by_angle)


def test_sp_of_two_samples_by_hand() -> None:
    """Orthogonal against equal: rows (1, 0), (0, 1) against (1, 1) / √2."""
    value = sp([torch.eye(2)], [torch.ones(2, 3)])
    assert value.item() == pytest.approx(2 * ((1 - sqrt(0.5)) ** 2 + 0.5) / 4)


def test_cc_approaches_the_gaussian_kernel_as_the_order_grows() -> None:
    units = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in (F_S, F_T)]
    k_s, k_t = ([exp(-0.4 * float(((u[i] - u[j]) ** 2).sum())) for i, j in pairs()] for u in units)
    expected = np.mean((np.array(k_s) - np.array(k_t)) ** 2)
    assert cc([t(F_S)], [t(F_T)], order=12).item() == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", RELATIONS)
@pytest.mark.parametrize("change", ["rotation", "scale"])
def test_relations_do_not_see_a_rotation_or_a_common_scale_of_the_features(name: str, change: str) -> None:
    changed = F_S @ ROTATION if change == "rotation" else 7 * F_S
    before, after = (RELATIONS[name]([t(f)], [t(F_T)]) for f in (F_S, changed))
    torch.testing.assert_close(after, before)


def test_rkd_does_not_see_a_shift_and_the_others_do() -> None:
    changes = {name: method([t(F_S + 1)], [t(F_T)]) - method([t(F_S)], [t(F_T)]) for name, method in RELATIONS.items()}
    assert abs(changes.pop("rkd")) < 1e-12
    assert all(abs(change) > 1e-6 for change in changes.values())


@pytest.mark.parametrize("name", RELATIONS)
def test_maps_are_averaged_over_positions_but_flattened_by_sp(name: str) -> None:
    maps_s, maps_t = torch.rand(N, 3, 2, 2).double(), torch.rand(N, 4, 2, 2).double()
    vectors = [f.flatten(1) if name == "sp" else f.mean((2, 3)) for f in (maps_s, maps_t)]
    torch.testing.assert_close(RELATIONS[name]([maps_s], [maps_t]), RELATIONS[name]([vectors[0]], [vectors[1]]))


@pytest.mark.parametrize("name", RELATIONS)
def test_a_map_goes_with_an_embedding_from_the_cache(name: str) -> None:
    maps = torch.rand(N, 3, 2, 2).double()
    torch.testing.assert_close(RELATIONS[name]([maps], [t(F_T)]), RELATIONS[name]([maps.mean((2, 3))], [t(F_T)]))
    assert about(RELATIONS[name]).pooled


def edges(f: Array) -> Array:
    d = np.array([[((f[i] - f[j]) ** 2).sum() for j in range(N)] for i in range(N)])
    return d / d.max()


def test_irg_is_the_weighted_sum_of_vertices_edges_and_transformations() -> None:
    """Two layers; the student's widths are 2 and 4, so channels 0 and 1, and 2 and 3 of the deeper are averaged."""
    rng = np.random.default_rng(3)
    s, s2, t_, t2 = (rng.normal(size=(N, width)) for width in (2, 4, 3, 3))
    method = IRG().double()
    method.prepare([t(s), t(s2)], [t(t_), t(t2)])
    method.double()
    weight, bias = (p.detach().numpy() for p in method.adapter.parameters())  # type: ignore[union-attr]
    vertex = ((s2 @ weight.T + bias - t2) ** 2).mean()
    edge = (((edges(s) - edges(t_)) ** 2).mean() + ((edges(s2) - edges(t2)) ** 2).mean()) / 2
    folded = np.stack([(s2[:, 0] + s2[:, 1]) / 2, (s2[:, 2] + s2[:, 3]) / 2], 1)
    moves = [((a - b) ** 2).sum(1) for a, b in ((folded, s), (t2, t_))]
    transform = ((moves[0] / moves[0].max() - moves[1] / moves[1].max()) ** 2).mean()
    value = method([t(s), t(s2)], [t(t_), t(t2)])
    assert value.item() == pytest.approx(0.1 * vertex + 5 * edge + 5 * transform)


def test_irg_of_a_single_layer_has_no_transformation_and_of_one_width_no_adapter() -> None:
    method = IRG()
    value = method([t(F_S)], [t(F_S + 1)])
    assert not list(method.parameters())
    assert value.item() == pytest.approx(0.1)


def crd(**options: Any) -> CRD:
    """Ready for the batch of these tests, in float64, with linear maps of one seed."""
    torch.manual_seed(0)
    method = CRD(dim=2, **options)
    method.prepare([t(F_S)], [t(F_T)], samples=SAMPLES)
    return method.double()


def irg() -> IRG:
    torch.manual_seed(0)
    method = IRG()
    method.prepare([t(F_S)] * 2, [t(F_T)] * 2)
    return method.double()


def all_calls() -> dict[str, Callable[..., Tensor]]:
    """Each method as a function of f_s, f_t, and the order of the batch, with the same weights at every call."""

    def call_crd(f_s: Tensor, f_t: Tensor, order: list[int]) -> Tensor:
        value: Tensor = crd()([f_s], [f_t], LABELS[order], ROWS[order])
        return value

    def call_irg(f_s: Tensor, f_t: Tensor, order: list[int]) -> Tensor:
        value: Tensor = irg()([f_s, f_s**2], [f_t, f_t.exp()])
        return value

    functions = {name: (lambda f_s, f_t, order, m=m: m([f_s], [f_t])) for name, m in RELATIONS.items()}
    return {**functions, "irg": call_irg, "crd": call_crd}


IN_ORDER = list(range(N))
CALLS = all_calls()


@pytest.mark.parametrize("name", CALLS)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    if name == "crd":  # trained on, it sets its constants from the batch, through which no gradient goes
        method = crd()
        method([t(F_S)], [t(F_T)], LABELS, ROWS)
        method.eval()
        assert torch.autograd.gradcheck(
            lambda f: method([f], [t(F_T)], LABELS, ROWS), t(F_S).requires_grad_(), atol=1e-6
        )
        return
    assert torch.autograd.gradcheck(lambda f: CALLS[name](f, t(F_T), IN_ORDER), t(F_S).requires_grad_())


@pytest.mark.parametrize("name", CALLS)
def test_no_gradient_reaches_the_teachers_features(name: str) -> None:
    f_s, f_t = t(F_S).requires_grad_(), t(F_T).requires_grad_()
    CALLS[name](f_s, f_t, IN_ORDER).backward()
    assert f_t.grad is None
    assert f_s.grad is not None and f_s.grad.abs().sum() > 0


@pytest.mark.parametrize("name", CALLS)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    order = [3, 0, 4, 1, 2]
    mixed = CALLS[name](t(F_S[order]), t(F_T[order]), order)
    torch.testing.assert_close(mixed, CALLS[name](t(F_S), t(F_T), IN_ORDER))


EXTREMES = torch.tensor([[6e4, -6e4], [-6e4, 6e4], [6e4, -6e4], [0, 0], [1e-7, 0]], dtype=torch.float16)


@pytest.mark.parametrize("teacher", [EXTREMES, EXTREMES.flip(0), torch.zeros_like(EXTREMES)])
@pytest.mark.parametrize("student", [EXTREMES, torch.zeros_like(EXTREMES)])
@pytest.mark.parametrize("name", [*RELATIONS, "irg", "crd"])
def test_extreme_equal_and_zero_features_in_half_precision_give_finite_losses_and_gradients(
    name: str, student: Tensor, teacher: Tensor
) -> None:
    f_s = student.clone().requires_grad_()
    scaled = f_s * 2**-6  # so that float16, the gradient's type, holds a gradient too
    if name == "crd":
        method = CRD()
        method.prepare([scaled], [teacher], samples=SAMPLES)
        value = method([scaled], [teacher], LABELS, ROWS)
    elif name == "irg":
        value = IRG()([scaled, scaled], [teacher / 64, teacher.flip(1) / 64])
    else:
        value = RELATIONS[name]([scaled], [teacher])
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert f_s.grad is not None and f_s.grad.isfinite().all()


@pytest.mark.parametrize("name", RELATIONS)
def test_autocast_does_not_change_the_loss(name: str) -> None:
    f_s, f_t = t(F_S).float(), t(F_T).float()
    plain = RELATIONS[name]([f_s], [f_t])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(RELATIONS[name]([f_s], [f_t]), plain, rtol=0, atol=0)


def test_autocast_does_not_change_irg_and_crd() -> None:
    f_s, f_t = t(F_S).float(), t(F_T).float()
    torch.manual_seed(0)
    crd = CRD()
    crd.prepare([f_s], [f_t], samples=SAMPLES)
    irg = IRG()
    irg.prepare([f_s], [f_t])
    calls = (lambda: irg([f_s, f_s], [f_t, f_t]), lambda: crd.eval()([f_s], [f_t], LABELS, ROWS))
    for call in calls:
        torch.manual_seed(0)
        plain = call()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(call(), plain, rtol=0, atol=0)


def test_tokens_are_averaged_over_their_positions() -> None:
    tokens = torch.arange(24.0).view(2, 3, 4)
    assert embedding(tokens).tolist() == tokens.mean(1).tolist() and embedding(tokens).shape == (2, 4)
    with pytest.raises(ValueError, match=r"not \[2, 3, 4, 1, 1\]"):
        embedding(tokens[..., None, None])


def embedded(layer: torch.nn.Module, f: Array) -> Array:
    e = layer(t(f)).detach().numpy()
    return np.asarray(e / np.linalg.norm(e, axis=1, keepdims=True))


def test_crd_is_noise_contrastive_estimation_over_the_banks() -> None:
    """All six other samples are negatives, less those of the batch that share the class."""
    method = crd()
    bank_s, bank_t = method.bank_s.numpy().copy(), method.bank_t.numpy().copy()
    class_of = {int(row): int(label) for row, label in zip(ROWS, LABELS, strict=True)}
    expected = 0.0
    for e, bank in ((embedded(method.embed_s, F_S), bank_t), (embedded(method.embed_t, F_T), bank_s)):
        similar = np.exp(e @ bank.T / 0.07)
        negatives = {
            i: [n for n in range(SAMPLES) if n != row and class_of.get(n) != class_of[row]]
            for i, row in enumerate(ROWS.tolist())
        }
        seen = [similar[i, n] for i, row in enumerate(ROWS.tolist()) for n in (row, *negatives[i])]
        z = float(np.mean(seen)) * SAMPLES
        for i, row in enumerate(ROWS.tolist()):
            noise = len(negatives[i]) / SAMPLES
            expected -= log(similar[i, row] / z / (similar[i, row] / z + noise)) / N
            expected -= sum(log(noise / (similar[i, n] / z + noise)) for n in negatives[i]) / N
    assert method([t(F_S)], [t(F_T)], LABELS, ROWS).item() == pytest.approx(expected, rel=1e-5)


def test_crds_banks_move_by_momentum_where_the_batch_is_and_stay_elsewhere() -> None:
    method = crd(momentum=0.25)
    before = {"s": method.bank_s.clone().numpy(), "t": method.bank_t.clone().numpy()}
    method([t(F_S)], [t(F_T)], LABELS, ROWS)
    for name, bank, layer, f in (
        ("s", method.bank_s, method.embed_s, F_S),
        ("t", method.bank_t, method.embed_t, F_T),
    ):
        expected = before[name]
        moved = 0.25 * expected[ROWS] + 0.75 * embedded(layer, f)
        expected[ROWS] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        np.testing.assert_allclose(bank.numpy(), expected)


def test_crds_constants_are_set_on_the_first_batch_and_are_part_of_the_state() -> None:
    method = crd()
    assert method.constant_s == 0
    method([t(F_S)], [t(F_T)], LABELS, ROWS)
    first = method.constant_s.clone(), method.constant_t.clone()
    method([t(F_S[::-1].copy())], [t(F_T)], LABELS, ROWS)
    assert (method.constant_s, method.constant_t) == first and first[0] > 0
    assert {"bank_s", "bank_t", "constant_s", "constant_t", "known"} <= set(method.state_dict())


def test_crd_changes_no_state_in_eval_mode() -> None:
    method = crd().eval()
    before = deepcopy(method.state_dict())
    method([t(F_S)], [t(F_T)], LABELS, ROWS)
    torch.testing.assert_close(method.state_dict(), before)


def test_crd_draws_others_from_torchs_generator_and_never_the_sample_itself() -> None:
    method = CRD(negatives=3)
    method.prepare([t(F_S)], [t(F_T)], samples=5)
    rows = torch.arange(5).repeat(200)
    torch.manual_seed(3)
    drawn = method.draw(rows)
    torch.manual_seed(3)
    assert torch.equal(method.draw(rows), drawn)
    assert not torch.equal(method.draw(rows), drawn)
    assert drawn.shape == (1000, 3) and (drawn != rows[:, None]).all()
    counts = torch.bincount((drawn - rows[:, None] - 1).remainder(5).flatten())
    assert len(counts) == 4 and counts.min() > 650 and counts.max() < 850  # of 3000, each other sample alike


def test_crd_takes_each_other_sample_once_where_there_are_few() -> None:
    drawn = crd().draw(ROWS)
    assert [sorted(line) for line in drawn.tolist()] == [
        [n for n in range(SAMPLES) if n != row] for row in ROWS.tolist()
    ]


def test_crd_learns_labels_from_batches_and_trains_its_linear_maps() -> None:
    method = crd()
    method([t(F_S)], [t(F_T)], LABELS, ROWS).backward()
    assert method.known.tolist() == [1, -1, 2, 0, -1, 1, 0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_crd_without_a_negative_is_finite_and_so_is_its_gradient() -> None:
    method = CRD()
    method.prepare([t(F_S)], [t(F_T)], samples=2)
    value = method.double()([t(F_S[:2])], [t(F_T[:2])], torch.zeros(2, dtype=torch.int64), torch.arange(2))
    value.backward()
    assert value.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_crd_refuses_more_than_one_pair_of_layers() -> None:
    with pytest.raises(RecipeError, match=r"'crd' .*one pair .*2 given"):
        CRD().prepare([t(F_S)] * 2, [t(F_T)] * 2, samples=SAMPLES)
