"""Methods of maps, of labels and of values, each against numpy or numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.distill.methods import METHODS, cwd, ifvd, mld, skd, standardized, teacher_bounded
from edgekd.recipe.losses import mistakes_in_losses, reads_teacher

RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(2, 3, 4, 6)), RNG.normal(size=(2, 5, 4, 6))
M_S, M_T = RNG.normal(size=(2, 3, 4, 6)), RNG.normal(size=(2, 3, 4, 6))
MASK = RNG.integers(-1, 3, size=(2, 8, 12))
Z_S, Z_T, Y = (RNG.normal(size=(4, 3)) for _ in range(3))


def t(x: object) -> Tensor:
    return torch.tensor(x)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


CALLS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], np.ndarray, np.ndarray]] = {
    "cwd": (cwd, M_S, M_T),
    "ifvd": (lambda s, t_: ifvd([s], [t_], t(MASK)), S, T),
    "skd": (lambda s, t_: skd([s], [t_]), S, T),
    "mld": (mld, Z_S, Z_T),
    "teacher_bounded": (lambda s, t_: teacher_bounded(s, t_, t(Y), margin=0.5), Z_S, Z_T),
}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_is_the_divergence_of_each_channel_over_positions(temperature: float) -> None:
    total = 0.0
    for image in range(2):
        for channel in range(3):
            p, q = (np.exp(m[image, channel] / temperature) for m in (M_T, M_S))
            p, q = p / p.sum(), q / q.sum()
            total += (p * np.log(p / q)).sum()
    found = cwd(t(M_S), t(M_T), temperature=temperature).item()
    assert found == pytest.approx(temperature**2 * total / 6, rel=1e-9)


def test_cwd_sees_where_a_class_is_and_not_its_shift() -> None:
    assert cwd(t(M_T) + torch.arange(3.0)[:, None, None], t(M_T)).item() == pytest.approx(0, abs=1e-12)
    by_hand = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)  # of even positions from a share of 1 to 3
    found = cwd(t([[[[0.0, log(3.0)]]]]), torch.zeros(1, 1, 1, 2), temperature=1.0).item()
    assert found == pytest.approx(by_hand, rel=1e-5)


def test_cwd_refuses_channels_that_do_not_meet() -> None:
    with pytest.raises(ValueError, match="given 3 and 5 channels"):
        cwd(t(S), t(T))


def variation(f: np.ndarray, mask: np.ndarray) -> dict[tuple[int, int], float]:
    """The cosine at each counted position of one image with the mean of its class."""
    found = {}
    for y, x in zip(*np.nonzero(mask >= 0), strict=True):
        found[int(y), int(x)] = cosine(f[:, y, x], f[:, mask == mask[y, x]].mean(1))
    return found


def test_ifvd_is_the_difference_of_cosines_with_the_prototype_of_the_class() -> None:
    errors = []
    for image in range(2):
        nearest = MASK[image, ::2, ::2]
        ours, theirs = variation(S[image], nearest), variation(T[image], nearest)
        errors += [(ours[place] - theirs[place]) ** 2 for place in ours]
    assert 0 < len(errors) < 48  # some positions do not count
    assert ifvd([t(S)], [t(T)], t(MASK)).item() == pytest.approx(float(np.mean(errors)), rel=1e-9)


def test_ifvd_of_positions_none_of_which_counts_is_zero() -> None:
    assert ifvd([t(S)], [t(T)], torch.full((2, 8, 12), -1)).item() == 0


@pytest.mark.parametrize(("scale", "patch"), [(0.5, (2, 3)), (0.25, (1, 1))])
def test_skd_is_the_difference_of_cosines_between_nodes(scale: float, patch: tuple[int, int]) -> None:
    h, w = patch
    errors = []
    for image in range(2):
        nodes = [
            [f[image, :, y : y + h, x : x + w].max((1, 2)) for y in range(0, 4, h) for x in range(0, 6, w)]
            for f in (S, T)
        ]
        for i in range(len(nodes[0])):
            for j in range(len(nodes[0])):
                ours, theirs = (cosine(of[i], of[j]) for of in nodes)
                errors.append((ours - theirs) ** 2)
    assert skd([t(S)], [t(T)], scale=scale).item() == pytest.approx(float(np.mean(errors)), rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_mld_is_a_divergence_for_each_label_alone(temperature: float) -> None:
    p, q = (1 / (1 + np.exp(-z / temperature)) for z in (Z_T, Z_S))
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    expected = temperature**2 * kl.sum() / len(Z_S)
    assert mld(t(Z_S), t(Z_T), temperature=temperature).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("student", "margin", "expected"),
    [
        (3.0, 0.0, 9.0),  # worse than the teacher, whose squared error is 4
        (1.0, 0.0, 0.0),  # better
        (1.0, 3.5, 1.0),  # better, by less than the margin
        (1.0, 3.0, 0.0),  # better by the margin itself
    ],
)
def test_teacher_bounded_leaves_a_student_alone_that_beats_the_teacher_by_the_margin(
    student: float, margin: float, expected: float
) -> None:
    found = teacher_bounded(t([[student, 5.0]]), t([[0.0, 7.0]]), t([[0.0, 5.0]]), margin=margin).item()
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", CALLS)
def test_no_gradient_reaches_the_teacher_and_the_students_is_that_of_finite_differences(name: str) -> None:
    call, ours, theirs = CALLS[name]
    s, teacher = t(ours).requires_grad_(), t(theirs).requires_grad_()
    call(s, teacher).backward()
    assert teacher.grad is None or not teacher.grad.any()
    assert s.grad is not None and s.grad.any()
    assert torch.autograd.gradcheck(lambda x: call(x, teacher.detach()), s)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "teacher_bounded"])
def test_a_student_that_answers_like_the_teacher_has_no_loss(name: str) -> None:
    call, _, theirs = CALLS[name]
    assert call(t(theirs), t(theirs)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_in_float32_and_finite_where_halves_are_large(name: str, dtype: torch.dtype) -> None:
    call, ours, theirs = CALLS[name]
    s = (t(ours) * 1e4).to(dtype).requires_grad_()
    teacher = (t(theirs) * 1e4).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value = call(s, teacher)
    value.backward()
    expected = call(s.detach().float(), teacher.float())
    torch.testing.assert_close(value.detach().float(), expected.float(), rtol=1e-5, atol=0)
    assert torch.isfinite(value) and s.grad is not None and torch.isfinite(s.grad).all()


@pytest.mark.parametrize("name", CALLS)
def test_they_read_a_teacher(name: str) -> None:
    assert reads_teacher(METHODS[name])


def test_rows_of_one_number_are_not_standardized() -> None:
    with pytest.raises(ValueError, match="rows of one number"):
        standardized(torch.zeros(4, 1))


def test_the_temperature_of_cwd_may_be_chosen_and_it_takes_no_layers() -> None:
    place = ("distill", "losses", 0)
    assert not list(mistakes_in_losses(iter([(place, {"method": "cwd", "temperature": "auto"})]), METHODS))
    (found,) = mistakes_in_losses(iter([(place, {"method": "cwd", "layers": {"head": "head"}})]), METHODS)
    assert found[0] == (*place, "layers") and "takes no layers" in found[1]


def test_a_quantized_graph_can_give_all_that_cwd_reads_and_not_what_ifvd_reads() -> None:
    assert METHODS["cwd"].reads_logits_alone and not METHODS["ifvd"].reads_logits_alone
