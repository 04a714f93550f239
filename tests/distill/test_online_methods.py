"""Methods that train networks of their own beside the student: mutual learning, ensembles, heads, a discriminator."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import log

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.distill.features import Taps
from edgekd.distill.methods.adversarial import Adversarial
from edgekd.distill.methods.adversarial_features import AdversarialFeatures
from edgekd.distill.methods.byot import BYOT
from edgekd.distill.methods.dml import DML
from edgekd.distill.methods.fresh import fresh
from edgekd.distill.methods.one import ONE
from edgekd.errors import RecipeError
from edgekd.models.resnet import resnet8

Array = NDArray[np.float64]
CLASSES = 3
IMAGES = torch.tensor(np.random.default_rng(0).normal(size=(4, 1, 8, 8)))
LABELS = torch.tensor([0, 2, 1, 2])
Z_S = torch.tensor(np.random.default_rng(1).normal(size=(4, CLASSES)))
Z_T = torch.tensor(np.random.default_rng(2).normal(size=(4, CLASSES)))
SHALLOW = torch.tensor(np.random.default_rng(3).normal(size=(4, 2, 8, 8)))
DEEP = torch.tensor(np.random.default_rng(4).normal(size=(4, 4, 4, 4)))


def network() -> nn.Module:
    """Two stages, of 2 × 8 × 8 and 4 × 4 × 4, and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            stage1=nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()),
            stage2=nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            classifier=nn.Linear(4, CLASSES),
        )
    ).double()


def dml(students: int = 2, temperature: float = 1.0) -> DML:
    method = DML(students=students, temperature=temperature)
    method.prepare(network().eval())
    return method


def one(branches: int = 3) -> ONE:
    torch.manual_seed(5)
    method = ONE(branches=branches)
    method.prepare([SHALLOW], network().eval(), ["stage1"])
    return method.double()


def byot() -> BYOT:
    torch.manual_seed(6)
    method = BYOT()
    method.prepare([SHALLOW, DEEP], CLASSES)
    return method.double()


def adversarial() -> Adversarial:
    torch.manual_seed(7)
    method = Adversarial(hidden=8)
    method.prepare(Z_S)
    return method.double()


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def kl(z_t: Array, z_s: Array, temperature: float) -> float:
    """`T² KL(p_t ‖ p_s)`, batch mean."""
    p, q = softmax(z_t / temperature), softmax(z_s / temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum(1).mean())


def ce(z: Array) -> float:
    return -sum(log(p[label]) for p, label in zip(softmax(z), LABELS.tolist(), strict=True)) / len(z)


def numbers(x: Tensor) -> Array:
    return x.detach().numpy()


@pytest.mark.parametrize(("students", "temperature"), [(2, 1.0), (3, 2.0)])
def test_dml_is_the_peers_ce_and_for_each_network_the_mean_divergence_from_the_others(
    students: int, temperature: float
) -> None:
    method = dml(students, temperature)
    z = [numbers(Z_S), *(numbers(peer(IMAGES)) for peer in method.peers)]
    expected = sum(ce(z[i]) for i in range(1, students))
    for i in range(students):
        expected += sum(kl(z[j], z[i], temperature) for j in range(students) if j != i) / (students - 1)
    assert method(Z_S, LABELS, (IMAGES,)).item() == pytest.approx(expected)


def test_dml_among_identical_networks_is_the_peers_ce() -> None:
    student = network()
    method = dml(3)
    for peer in method.peers:
        peer.load_state_dict(student.state_dict())
    z_s = student(IMAGES)
    assert method(z_s, LABELS, (IMAGES,)).item() == pytest.approx(2 * ce(numbers(z_s)))


def test_in_dml_each_divergence_moves_the_one_that_learns_alone() -> None:
    """The student's gradient is (p_s - p_peer) / batch, the peer's (2 p_peer - onehot - p_s) / batch."""
    method = dml()
    z_s, z_peer = Z_S.clone().requires_grad_(), torch.zeros(4, CLASSES, dtype=torch.float64)
    z_peer[:, 1] = log(2)
    method.peers = nn.ModuleList([Says(z_peer)])
    method(z_s, LABELS, (IMAGES,)).backward()
    p_s, p_peer = softmax(numbers(Z_S)), softmax(z_peer.numpy())
    assert z_s.grad is not None
    np.testing.assert_allclose(z_s.grad.numpy(), (p_s - p_peer) / 4)
    says = method.peers[0].logits.grad
    assert isinstance(says, Tensor)
    np.testing.assert_allclose(says.numpy(), (2 * p_peer - np.eye(CLASSES)[LABELS.numpy()] - p_s) / 4)


class Says(nn.Module):
    """Answers the same logits to every image."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def test_dmls_peers_are_networks_of_the_method_with_weights_of_their_own() -> None:
    student = network()
    names = list(student.state_dict())
    method = DML(students=3)
    method.prepare(student)
    assert list(student.state_dict()) == names
    ours = {id(p) for p in student.parameters()}
    assert not ours & {id(p) for p in method.parameters()}
    assert len(list(method.parameters())) == 2 * len(ours)
    weights = [model.stage1[0].weight for model in (student, *method.peers)]  # type: ignore[index, union-attr]
    assert not any(torch.equal(a, b) for a, b in ((weights[0], weights[1]), (weights[0], weights[2]), weights[1:]))
    method(student(IMAGES), LABELS, (IMAGES,)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("make", [dml, one])
def test_the_methods_networks_are_in_its_mode_though_the_student_was_evaluated_at_prepare(
    make: Callable[[], nn.Module],
) -> None:
    method = make()
    assert all(part.training for part in method.modules())
    assert not any(part.training for part in method.eval().modules())


def test_a_fresh_copy_depends_on_seed_and_number_alone() -> None:
    first = fresh(network(), 1, 0).state_dict()
    torch.manual_seed(99)
    torch.testing.assert_close(fresh(network(), 1, 0).state_dict(), first)
    for other in (fresh(network(), 2, 0), fresh(network(), 1, 1)):
        assert not torch.equal(other.state_dict()["classifier.weight"], first["classifier.weight"])


def test_a_fresh_copy_leaves_torchs_generator_as_it_was() -> None:
    model = nn.Linear(2, 2)
    state = torch.random.get_rng_state()
    fresh(model, 1, 0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_fresh_copy_of_a_model_built_with_the_same_seed_is_another_network() -> None:
    torch.manual_seed(1)
    model = nn.Linear(3, 3)
    assert not any(torch.equal(fresh(model, 1, n).weight, model.weight) for n in range(3))  # type: ignore[arg-type]


def test_a_fresh_copy_is_not_read_by_the_students_taps() -> None:
    student = network()
    with Taps(student, ["stage1"], "student") as taps:
        student(IMAGES)
        own = taps.features["stage1"]
        fresh(student, 1, 0)(IMAGES)
        assert taps.features["stage1"] is own


def test_a_fresh_copy_forgets_running_statistics_and_attentions_weights() -> None:
    student = network()
    student(IMAGES)
    assert fresh(student, 1, 0).state_dict()["stage1.1.running_mean"].tolist() == [0, 0]
    attention = nn.MultiheadAttention(4, 2)
    copy = fresh(attention, 1, 0)
    assert not torch.equal(copy.state_dict()["in_proj_weight"], attention.state_dict()["in_proj_weight"])


def test_one_is_the_branches_and_ensembles_ce_and_the_ensembles_divergence_from_each_branch() -> None:
    method = one()
    z = [numbers(Z_S), *(numbers(branch(SHALLOW)) for branch in method.branches)]
    linear, norm = method.gate[0], method.gate[1]
    weight, bias = (numbers(p) for p in linear.parameters())
    gate = numbers(SHALLOW).mean((2, 3)) @ weight.T + bias
    gate = (gate - gate.mean(0)) / np.sqrt(gate.var(0) + norm.eps)  # type: ignore[operator]
    gate = softmax(np.maximum(gate, 0))
    ensemble = sum(gate[:, [k]] * z[k] for k in range(3))
    assert isinstance(ensemble, np.ndarray)
    expected = ce(z[1]) + ce(z[2]) + ce(ensemble) + sum(kl(ensemble, z[k], 3.0) for k in range(3))
    assert method(Z_S, LABELS, [SHALLOW]).item() == pytest.approx(expected)


def test_ones_branches_are_the_rest_of_the_student_with_weights_of_their_own() -> None:
    student = network()
    method = ONE()
    method.prepare([SHALLOW], student, ["stage1"])
    rest = {name: p for name, p in student.named_parameters() if not name.startswith("stage1")}
    for branch in method.branches:
        assert {name: p.shape for name, p in branch.named_parameters()} == {n: p.shape for n, p in rest.items()}
        assert not any(p is q for p in branch.parameters() for q in student.parameters())
        assert not torch.equal(dict(branch.named_parameters())["stage2.0.weight"], rest["stage2.0.weight"])


def test_ones_gradient_reaches_the_fork_the_branches_and_the_gate() -> None:
    method, fork, z_s = one(), SHALLOW.clone().requires_grad_(), Z_S.clone().requires_grad_()
    method(z_s, LABELS, [fork]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert fork.grad is not None and fork.grad.abs().sum() > 0
    assert z_s.grad is not None and z_s.grad.abs().sum() > 0


def test_one_leaves_the_ensemble_untouched_by_its_lesson_to_the_branches() -> None:
    """With the labels' terms taken away the gate has no gradient."""
    method = one()
    value = method(Z_S, LABELS, [SHALLOW])
    z = torch.stack([Z_S, *(branch(SHALLOW) for branch in method.branches)])
    ensemble = (method.gate(SHALLOW.mean((2, 3))).T[:, :, None] * z).sum(0)
    labels = sum(nn.functional.cross_entropy(logits, LABELS) for logits in (z[1], z[2], ensemble))
    grads = torch.autograd.grad(value - labels, list(method.gate.parameters()))
    assert all(grad.abs().max() < 1e-12 for grad in grads)


def test_one_forks_at_one_layer() -> None:
    with pytest.raises(RecipeError, match=r"'one' .*2 given: stage1, stage2"):
        ONE().prepare([SHALLOW, DEEP], network(), ["stage1", "stage2"])


def test_byot_is_labels_the_deepest_logits_and_the_deepest_feature_for_each_head() -> None:
    method = byot()
    adapted = numbers(method.adapters[0](SHALLOW)).mean((2, 3))
    weight, bias = (numbers(p) for p in method.classifiers[0].parameters())
    z = adapted @ weight.T + bias
    distance = ((adapted - numbers(DEEP).mean((2, 3))) ** 2).sum(1).mean()
    expected = 0.7 * ce(z) + 0.3 * kl(numbers(Z_S), z, 3.0) + 0.03 * distance
    assert method(Z_S, LABELS, [SHALLOW, DEEP]).item() == pytest.approx(expected)


@pytest.mark.parametrize("deepest", [DEEP, DEEP.mean((2, 3))], ids=["map", "vector"])
def test_byots_heads_bring_each_inner_map_to_the_deepest(deepest: Tensor) -> None:
    method, middle = BYOT(), torch.rand(4, 3, 7, 5).double()
    method.prepare([SHALLOW, middle, deepest], CLASSES)
    method.double()
    assert method.adapters[0](SHALLOW).shape[1:] == ((4, 4, 4) if deepest.ndim == 4 else (4, 1, 1))
    assert method.adapters[1](middle).shape[1] == 4
    method(Z_S, LABELS, [SHALLOW, middle, deepest]).backward()
    assert all(p.grad is not None for p in method.parameters())


def test_in_byot_the_deepest_teaches_and_gets_no_gradient() -> None:
    method, shallow = byot(), SHALLOW.clone().requires_grad_()
    z_s, deep = Z_S.clone().requires_grad_(), DEEP.clone().requires_grad_()
    method(z_s, LABELS, [shallow, deep]).backward()
    assert z_s.grad is None and deep.grad is None
    assert shallow.grad is not None and shallow.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("layers", "message"), [([DEEP], "'byot' .*at least two"), ([DEEP.mean((2, 3)), DEEP], r"maps.*given \(4, 4\)")]
)
def test_byot_needs_an_inner_layer_that_puts_out_maps(layers: list[Tensor], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        BYOT().prepare(layers, CLASSES)


def discriminator(method: Adversarial, z: Array) -> Array:
    """The probability of being the teacher's."""
    for i in (0, 2, 4):
        weight, bias = (numbers(p) for p in method.discriminator[i].parameters())
        z = z @ weight.T + bias
        z = np.where(z > 0, z, 0.2 * z) if i < 4 else z
    return np.asarray(1 / (1 + np.exp(-z[:, 0])))


def test_adversarial_is_the_discriminators_binary_cross_entropy() -> None:
    method = adversarial()
    theirs, ours = discriminator(method, numbers(Z_T)), discriminator(method, numbers(Z_S))
    assert method(Z_S, Z_T).item() == pytest.approx(-np.log(theirs).mean() - np.log(1 - ours).mean())


def test_adversarial_is_two_log_two_where_the_discriminator_cannot_tell() -> None:
    method = adversarial()
    nn.init.zeros_(method.discriminator[4].weight)  # type: ignore[arg-type]
    nn.init.zeros_(method.discriminator[4].bias)  # type: ignore[arg-type]
    assert method(Z_S, Z_T).item() == pytest.approx(2 * log(2))


def test_the_students_gradient_is_reversed_and_the_discriminators_is_not() -> None:
    """By finite differences: down the gradient the student raises the loss, the discriminator lowers it."""
    method, z_s = adversarial(), Z_S.clone().requires_grad_()
    value = method(z_s, Z_T)
    value.backward()
    step = 1e-4
    weight = method.discriminator[0].weight
    assert z_s.grad is not None and isinstance(weight, nn.Parameter) and weight.grad is not None
    with torch.no_grad():
        student = method(Z_S - step * z_s.grad, Z_T) - value
        assert student.item() == pytest.approx(step * z_s.grad.square().sum().item(), rel=1e-2)
        weight -= step * weight.grad
        lowered = method(Z_S, Z_T) - value
        assert lowered.item() == pytest.approx(-step * weight.grad.square().sum().item(), rel=1e-2)


def test_adversarials_gradient_never_reaches_the_teacher() -> None:
    z_s, z_t = Z_S.clone().requires_grad_(), Z_T.clone().requires_grad_()
    adversarial()(z_s, z_t).backward()
    assert z_t.grad is None and z_s.grad is not None and z_s.grad.abs().sum() > 0


def test_adversarial_brings_the_students_logits_to_where_the_teachers_are() -> None:
    """Logits of a free mean, that begins at (0, 0), beside a teacher's around (2, -2)."""
    torch.manual_seed(0)
    z_t = torch.tensor([2.0, -2.0]) + torch.randn(64, 2)
    spread, mean = torch.randn(64, 2), nn.Parameter(torch.zeros(2))
    method = Adversarial(hidden=16)
    method.prepare(spread)
    optimizer = torch.optim.Adam([mean, *method.parameters()], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        method(spread + mean, z_t).backward()
        optimizer.step()
    assert ((spread + mean).mean(0) - z_t.mean(0)).norm().item() < 0.7


def test_ones_student_learns_from_the_ensemble_and_in_it() -> None:
    """Its gradient is T (p_s^T - p_ensemble^T) / batch from the divergence, gate (p_ensemble - onehot) / batch from CE."""
    method, z_s = one(), Z_S.clone().requires_grad_()
    method(z_s, LABELS, [SHALLOW]).backward()
    gate = numbers(method.gate(SHALLOW.mean((2, 3))))
    ensemble = gate[:, [0]] * numbers(Z_S)
    for k, branch in enumerate(method.branches, 1):
        ensemble = ensemble + gate[:, [k]] * numbers(branch(SHALLOW))
    lesson = 3 * (softmax(numbers(Z_S) / 3) - softmax(ensemble / 3)) / 4
    labels = gate[:, [0]] * (softmax(ensemble) - np.eye(CLASSES)[LABELS.numpy()]) / 4
    assert z_s.grad is not None
    np.testing.assert_allclose(z_s.grad.numpy(), lesson + labels)


def test_byots_gradient_is_that_of_finite_differences() -> None:
    method = byot()
    assert torch.autograd.gradcheck(lambda f: method(Z_S, LABELS, [f, DEEP]), SHALLOW.clone().requires_grad_())


CALLS: dict[str, Callable[[list[int]], Tensor]] = {
    "dml": lambda order: dml(3)(Z_S[order], LABELS[order], (IMAGES[order],)),
    "one": lambda order: one()(Z_S[order], LABELS[order], [SHALLOW[order]]),
    "byot": lambda order: byot()(Z_S[order], LABELS[order], [SHALLOW[order], DEEP[order]]),
    "adversarial": lambda order: adversarial()(Z_S[order], Z_T[order]),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    torch.testing.assert_close(CALLS[name]([2, 0, 3, 1]), CALLS[name]([0, 1, 2, 3]))


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("name", CALLS)
def test_extreme_logits_and_features_in_half_precision_give_finite_losses_and_gradients(
    name: str, scale: float
) -> None:
    z_s = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 0.0, 6e4]], dtype=torch.float16, requires_grad=True)
    z, labels = scale * z_s / 256, torch.tensor([0, 1])
    shallow, deep = (scale * 1e3 * torch.sign(f[:2]).half() for f in (SHALLOW, DEEP))
    calls: dict[str, Callable[[], Tensor]] = {
        "dml": lambda: dml().float()(z, labels, (IMAGES[:2].float(),)),
        "one": lambda: one().float()(z, labels, [shallow.requires_grad_()]),
        "byot": lambda: byot().float()(z, labels, [shallow.requires_grad_(), deep]),
        "adversarial": lambda: adversarial().float()(z, -z.flip(1)),
    }
    value = calls[name]()
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    given = [x.grad for x in (z_s, shallow) if x.requires_grad and x.grad is not None]
    assert given and all(grad.isfinite().all() for grad in given)


def test_adversarial_features_is_two_log_two_a_layer_where_the_discriminators_cannot_tell() -> None:
    f_s, f_t = [torch.randn(4, 3, 6, 6), torch.randn(4, 5, 3, 3)], [torch.randn(4, 6, 3, 3), torch.randn(4, 7, 3, 3)]
    method = AdversarialFeatures(hidden=4)
    method.prepare(f_s, f_t)
    for discriminator in method.discriminators:
        nn.init.zeros_(discriminator[-1].weight)  # type: ignore[index]
        nn.init.zeros_(discriminator[-1].bias)  # type: ignore[index]
    assert method(f_s, f_t).item() == pytest.approx(2 * 2 * log(2), rel=1e-5)


def adversarial_features() -> tuple[AdversarialFeatures, list[Tensor], list[Tensor]]:
    torch.manual_seed(3)
    f_s, f_t = [torch.randn(4, 3, 4, 4).double()], [torch.randn(4, 5, 4, 4).double()]
    method = AdversarialFeatures(hidden=4)
    method.prepare(f_s, f_t)
    return method.double(), f_s, f_t


def test_adversarial_features_is_the_discriminators_binary_cross_entropy_at_each_position() -> None:
    method, f_s, f_t = adversarial_features()
    theirs, ours = (
        1 / (1 + np.exp(-numbers(method.discriminators[0](f)))) for f in (f_t[0], method.regressors[0](f_s[0]))
    )
    assert theirs.shape == (4, 1, 4, 4)
    assert method(f_s, f_t).item() == pytest.approx(-np.log(theirs).mean() - np.log(1 - ours).mean())


def test_adversarial_features_gradient_is_that_of_finite_differences_reversed() -> None:
    method, f_s, f_t = adversarial_features()
    given = f_s[0].clone().requires_grad_()
    method([given], f_t).backward()
    assert given.grad is not None
    for place in ((0, 0, 0, 0), (3, 2, 1, 3), (1, 1, 2, 0)):
        moved = [f_s[0].clone(), f_s[0].clone()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        slope = (method(moved[:1], f_t) - method(moved[1:], f_t)) / 2e-6
        assert given.grad[place].item() == pytest.approx(-slope.item(), rel=1e-4, abs=1e-9)


def test_adversarial_features_does_not_see_the_order_nor_autocast_and_is_finite_in_half_precision() -> None:
    method, f_s, f_t = adversarial_features()
    order = [2, 0, 3, 1]
    torch.testing.assert_close(method([f_s[0][order]], [f_t[0][order]]), method(f_s, f_t))
    method.float()
    s, t = [f_s[0].float()], [f_t[0].float()]
    plain = method(s, t)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(method(s, t), plain, rtol=0, atol=0)
    extreme = method([6e4 * f_s[0].sign().half()], [6e4 * f_t[0].sign().half()])
    assert extreme.dtype == torch.float32 and extreme.isfinite()


def test_without_a_seed_the_peers_and_branches_follow_torchs_generator() -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        method = DML()
        method.prepare(resnet8(3, 1, width=4))
        found.append(method.peers[0].state_dict()["fc.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_adversarial_features_pull_the_student_where_the_discriminator_sees_the_teacher() -> None:
    """D's gradient lowers the loss, the student's and the regressor's raise it; the teacher gets none."""
    torch.manual_seed(0)
    f_s, f_t = torch.randn(4, 3, 4, 4, requires_grad=True), torch.randn(4, 5, 4, 4, requires_grad=True)
    method = AdversarialFeatures(hidden=4)
    method([f_s], [f_t]).backward()
    assert f_t.grad is None and f_s.grad is not None
    with torch.no_grad():
        before = method([f_s], [f_t])
        along_student = method([f_s - 1e-1 * f_s.grad], [f_t])
        for parameter in method.discriminators.parameters():
            assert parameter.grad is not None
            parameter -= 1e-2 * parameter.grad
        along_discriminator = method([f_s], [f_t])
    assert along_student > before > along_discriminator
