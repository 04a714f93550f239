"""Every feature method against an expectation that is computed independently of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.distill.features import Taps
from edgekd.distill.methods.ab import AB, boundary_loss
from edgekd.distill.methods.at import at
from edgekd.distill.methods.fitnet import FitNet
from edgekd.distill.methods.fsp import FSP
from edgekd.distill.methods.ft import FT
from edgekd.distill.methods.mgd import MGD
from edgekd.distill.methods.nst import nst
from edgekd.distill.methods.ofd import OFD, margin_of, partial_l2
from edgekd.distill.methods.reviewkd import Fusion, ReviewKD, hierarchical_context_loss
from edgekd.distill.methods.simkd import SimKD, reused
from edgekd.distill.methods.srrl import SRRL
from edgekd.distill.methods.vid import VID
from edgekd.errors import ModelError
from edgekd.models import BUILT_IN
from edgekd.models.resnet import resnet8

Array = NDArray[np.float64]
KINDS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "at": lambda: at,
    "fitnet": FitNet,
    "fitnet with attention": partial(FitNet, attention=True),
    "vid": VID,
    "ab": AB,
    "ft": FT,
    "nst": lambda: nst,
    "fsp": FSP,
    "ofd": OFD,
    "reviewkd": ReviewKD,
    "mgd": MGD,
    "srrl": SRRL,
    "simkd": SimKD,
}
# [channels, h, w] of two layers each; a width is equal in one of the pairs, the student is larger and smaller.
STUDENT = ((2, 4, 4), (3, 2, 2))
TEACHER = ((3, 4, 2), (3, 4, 4))
WIDER = ((2, 4, 4), (5, 4, 4))


class Teacher(nn.Module):
    """Only the head of one: `[batch, channels, h, w]` to logits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 4)

    def forward(self, f: Tensor) -> Tensor:
        z: Tensor = self.fc(f.mean((2, 3)))
        return z


@dataclass
class World:
    """What a method may ask for by name."""

    f_s: list[Tensor]
    f_t: list[Tensor]
    z_t: Tensor
    teacher: nn.Module

    def given(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


def world(
    name: str,
    dtype: torch.dtype = torch.float64,
    teacher: Sequence[Sequence[int]] = TEACHER,
    scale: float = 1.0,
    batch: int = 3,
) -> World:
    torch.manual_seed(1)
    f_s, f_t = ([scale * torch.randn(batch, *shape) for shape in shapes] for shapes in (STUDENT, teacher))
    if name in ("srrl", "simkd"):
        f_s, f_t = f_s[-1:], f_t[-1:]
    net = Teacher(f_t[-1].shape[1])
    with torch.no_grad():
        z_t = net(f_t[-1]).to(torch.promote_types(dtype, torch.float32))
    return World([f.to(dtype) for f in f_s], [f.to(dtype) for f in f_t], z_t, net)


def prepared(name: str, seen: World, kind: Callable[[], Callable[..., Tensor]] | None = None) -> Callable[..., Tensor]:
    method = (kind or KINDS[name])()
    if isinstance(method, nn.Module):
        with torch.no_grad():
            method.prepare(**seen.given(list(inspect.signature(method.prepare).parameters)))
        if seen.f_s[0].dtype == torch.float64:
            method.double()
    return method


def value(method: Callable[..., Tensor], seen: World) -> Tensor:
    """The loss, with the same random masks at each call."""
    torch.manual_seed(2)
    call: Callable[..., Tensor] = method.forward if isinstance(method, nn.Module) else method
    needs = [p.name for p in inspect.signature(call).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return method(**seen.given(needs))


def n(x: Tensor) -> Array:
    return x.detach().double().numpy()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pooled(f: Array, h: int, w: int) -> Array:
    b, c, height, width = f.shape
    blocks: Array = f.reshape(b, c, h, height // h, w, width // w).mean((3, 5))
    return blocks


def conv1x1(layer: nn.Module, f: Array) -> Array:
    assert isinstance(layer, nn.Conv2d)
    out: Array = np.einsum("oc,bchw->bohw", n(layer.weight)[:, :, 0, 0], f)
    return out if layer.bias is None else out + n(layer.bias)[None, :, None, None]


def batch_norm(f: Array) -> Array:
    """BatchNorm as it begins, in train mode."""
    out: Array = (f - f.mean((0, 2, 3), keepdims=True)) / np.sqrt(f.var((0, 2, 3), keepdims=True) + 1e-5)
    return out


# What holds for all.


@pytest.mark.parametrize("teacher", [TEACHER, WIDER])
@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_is_that_of_finite_differences(name: str, teacher: Sequence[Sequence[int]]) -> None:
    seen = world(name, teacher=teacher, batch=2)
    method = prepared(name, seen)
    if isinstance(method, nn.Module):
        method.eval()
    f_s = [f.requires_grad_() for f in seen.f_s]
    assert torch.autograd.gradcheck(lambda *f: value(method, World(list(f), seen.f_t, seen.z_t, seen.teacher)), f_s)


@pytest.mark.parametrize("name", KINDS)
def test_no_gradient_reaches_the_teacher_and_every_adapter_is_trained(name: str) -> None:
    seen = world(name, teacher=WIDER)
    for f in (*seen.f_s, *seen.f_t, seen.z_t):
        f.requires_grad_()
    method = prepared(name, seen)
    value(method, seen).backward()
    assert all(f.grad is None for f in (*seen.f_t, seen.z_t, *seen.teacher.parameters()))
    assert all(f.grad is not None and f.grad.abs().sum() > 0 for f in seen.f_s)
    if isinstance(method, nn.Module):
        own = dict(method.named_parameters())
        assert not {id(p) for p in own.values()} & {id(p) for p in seen.teacher.parameters()}
        trained = {name for name, p in own.items() if p.grad is not None and p.grad.abs().sum() > 0}
        assert trained == {name for name in own if not name.startswith("head.")} and trained
        assert not any(p.requires_grad for name, p in own.items() if name.startswith("head."))


@pytest.mark.parametrize("name", KINDS)
def test_extreme_features_in_half_precision_give_finite_losses(name: str) -> None:
    seen = world(name, torch.float16)
    for f in (*seen.f_s, *seen.f_t):
        f.copy_(6e4 * f.sign())
    with torch.no_grad():
        seen.z_t = seen.teacher(seen.f_t[-1].float())
    loss = value(prepared(name, seen), seen)
    assert loss.dtype == torch.float32 and loss.shape == () and torch.isfinite(loss)


@pytest.mark.parametrize("name", KINDS)
def test_features_of_zero_give_finite_losses_and_gradients(name: str) -> None:
    seen = world(name, torch.float32, scale=0.0)
    f_s = [f.requires_grad_() for f in seen.f_s]
    loss = value(prepared(name, seen), seen)
    loss.backward()
    assert torch.isfinite(loss) and all(f.grad is not None and torch.isfinite(f.grad).all() for f in f_s)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "reviewkd"])
def test_autocast_does_not_lower_the_precision(name: str) -> None:
    seen = world(name, torch.float32)
    method = prepared(name, seen)
    expected = value(method, seen)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(value(method, seen), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", KINDS)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    seen, order = world(name), [2, 0, 1]
    method = prepared(name, seen, partial(MGD, mask=0.0) if name == "mgd" else None)
    mixed = World([f[order] for f in seen.f_s], [f[order] for f in seen.f_t], seen.z_t[order], seen.teacher)
    torch.testing.assert_close(value(method, mixed), value(method, seen))


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"srrl", "nst", "at"}))
def test_a_method_that_was_not_prepared_fits_the_first_features_it_sees(name: str) -> None:
    seen, method = world(name, torch.float32), KINDS[name]()
    assert isinstance(method, nn.Module) and not list(method.parameters())
    value(method, seen)
    torch.testing.assert_close(value(method, seen), value(method, seen))
    made = {key: p.shape for key, p in method.named_parameters()}
    asked = prepared(name, seen)
    assert isinstance(asked, nn.Module)
    assert made == {key: p.shape for key, p in asked.named_parameters() if not key.startswith("head.")}


# FitNets


def test_fitnets_attention_weighs_channels_by_the_softmax_of_their_mean_magnitude() -> None:
    f_s, f_t = randn(2, 3, 4, 4), randn(2, 5, 4, 4, seed=1)
    method = FitNet(attention=True)
    method.prepare([f_s], [f_t])
    method.double()
    e = np.exp(np.abs(n(f_t)).mean((2, 3)))
    mask = 5 * e / e.sum(1, keepdims=True)
    assert mask.mean(1) == pytest.approx([1.0, 1.0])
    expected = (mask[:, :, None, None] * (conv1x1(method.regressors[0], n(f_s)) - n(f_t)) ** 2).mean()
    assert method([f_s], [f_t]).item() == pytest.approx(expected, rel=1e-9)


# VID


def test_vid_is_the_negative_log_likelihood_of_a_gaussian_with_a_variance_a_channel() -> None:
    f_s, f_t = randn(2, 3, 4, 4), randn(2, 5, 4, 4, seed=1)
    method = VID()
    method.prepare([f_s], [f_t])
    method.double()
    likelihood = method.likelihoods[0]
    rho = np.linspace(-1, 3, 5)
    likelihood.rho.data = torch.tensor(rho).view(1, 5, 1, 1)
    layers = likelihood.mean
    mean = conv1x1(layers[4], np.maximum(conv1x1(layers[2], np.maximum(conv1x1(layers[0], n(f_s)), 0)), 0))
    variance = (np.log(1 + np.exp(rho)) + 1e-5)[None, :, None, None]
    density = np.exp(-((n(f_t) - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    expected = -np.log(density).mean() - 0.5 * np.log(2 * np.pi)
    assert method([f_s], [f_t]).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("initial", [5.0, 0.5])
def test_vids_variance_starts_where_it_is_told(initial: float) -> None:
    method = VID(initial_variance=initial)
    method.prepare([torch.rand(1, 2, 2, 2)], [torch.rand(1, 3, 2, 2)])
    rho = method.likelihoods[0].rho
    assert (torch.nn.functional.softplus(rho) + method.eps).flatten().tolist() == pytest.approx([initial] * 3, rel=1e-5)


# AB


@pytest.mark.parametrize(
    ("t", "expected"), [(1.0, [0, 0.25, 2.25, 9]), (-1.0, [9, 2.25, 0.25, 0]), (0.0, [9, 2.25, 0.25, 0])]
)
def test_abs_hinge_by_hand(t: float, expected: list[float]) -> None:
    """The student is at 2, ½, −½, −2; the margin is 1, and a teacher at zero is not active."""
    s = torch.tensor([2.0, 0.5, -0.5, -2.0]).view(4, 1, 1, 1)
    losses = [boundary_loss(x[None], torch.full((1, 1, 1, 1), t), 1.0).item() for x in s]
    assert losses == pytest.approx(expected)
    two_samples = s.view(2, 2, 1, 1)  # of two neurons each: a sum over neurons, a mean over samples
    assert boundary_loss(two_samples, torch.full_like(two_samples, t), 1.0).item() == pytest.approx(sum(expected) / 2)


@pytest.mark.parametrize("kind", [AB, OFD])
def test_ab_and_ofd_count_the_deepest_layer_once_and_each_before_it_half_as_much(kind: type[AB] | type[OFD]) -> None:
    """All layers alike, the connectors replaced by nothing: 1 + 1/2 + 1/4 times the loss of one."""
    f_s, f_t = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    losses = []
    for layers in (1, 3):
        method = kind()
        method.prepare([f_s] * layers, [f_t] * layers)
        if isinstance(method, AB):
            method.connectors = nn.ModuleList(nn.Identity() for _ in range(layers))
        else:
            for layer in method.layers:
                layer.connector = nn.Identity()
        losses.append(method([f_s] * layers, [f_t] * layers).item())
    assert losses[1] == pytest.approx(1.75 * losses[0]) and losses[0] > 0


@pytest.mark.parametrize("kind", [AB, OFD])
def test_the_connector_is_a_1x1_convolution_and_batch_norm(kind: type[AB] | type[OFD]) -> None:
    f_s, f_t = randn(4, 3, 4, 4), randn(4, 5, 4, 4, seed=1)
    method = kind()
    method.prepare([f_s], [f_t])
    method.double()
    connector = method.connectors[0] if isinstance(method, AB) else method.layers[0].connector
    s = torch.tensor(batch_norm(conv1x1(connector[0], n(f_s))))
    expected = boundary_loss(s, f_t, 1.0) if kind is AB else partial_l2(s, torch.maximum(f_t, margin_of(f_t)))
    torch.testing.assert_close(method([f_s], [f_t]), expected)


# FT


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize("p1", [1, 2])
@pytest.mark.parametrize("p2", [1, 2])
def test_fts_distance_is_the_mean_difference_of_factors_normalised_as_vectors(p1: Any, p2: Any) -> None:
    a, b = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    u, v = (x / (np.abs(x) ** p1).sum(1, keepdims=True) ** (1 / p1) for x in (n(f).reshape(2, -1) for f in (a, b)))
    expected = (np.abs(u - v) ** p2).mean()
    assert FT(p1=p1, p2=p2).distance(a, b).item() == pytest.approx(expected, rel=1e-9)


def test_ft_forgets_the_scale_of_a_factor_and_is_zero_for_equal_ones() -> None:
    """Translator and paraphraser replaced by nothing: the factors are the features."""
    f = randn(2, 3, 4, 4)
    method = FT()
    method.prepare([f], [f])
    method.translators[0] = nn.Identity()
    method.paraphrasers[0].encoder = nn.Identity()
    method.paraphrasers[0].decoder = nn.Identity()
    assert method([3 * f], [f]).item() == pytest.approx(0.0, abs=1e-12)
    assert method([-f], [f]).item() > 0.01
    method.paraphrasers[0].decoder = Doubled()
    assert method([f], [f]).item() == pytest.approx(0.002 * (n(f) ** 2).mean())


@pytest.mark.parametrize(("k", "width"), [(0.5, 4), (0.1, 1), (2.0, 16)])
def test_fts_factor_has_k_times_the_teachers_channels(k: float, width: int) -> None:
    f_s, f_t = torch.rand(2, 3, 4, 4), torch.rand(2, 8, 4, 4)
    method = FT(k=k)
    method.prepare([f_s], [f_t])
    assert method.paraphrasers[0].encoder(f_t).shape == method.translators[0](f_s).shape == (2, width, 4, 4)
    assert method.paraphrasers[0].decoder(method.paraphrasers[0].encoder(f_t)).shape == f_t.shape


def test_fts_paraphraser_learns_from_its_reconstruction_alone() -> None:
    f_s, f_t = torch.rand(2, 3, 4, 4), torch.rand(2, 8, 4, 4)
    method = FT(reconstruction=0.0)
    method([f_s], [f_t]).backward()
    assert all(p.grad is not None and not p.grad.any() for p in method.paraphrasers.parameters())
    assert all(p.grad is not None and p.grad.any() for p in method.translators.parameters())


# NST


@pytest.mark.parametrize(("degree", "constant"), [(2, 0.0), (3, 0.5)])
def test_nst_is_the_mean_discrepancy_over_all_pairs_of_channels(degree: int, constant: float) -> None:
    f_s, f_t = randn(2, 3, 4, 4), randn(2, 5, 4, 4, seed=1)
    expected = 0.0
    for s, t in zip(n(f_s), n(f_t), strict=True):
        s, t = ([c.ravel() / np.linalg.norm(c) for c in f] for f in (s, t))
        for sign, left, right in ((1, t, t), (1, s, s), (-2, s, t)):
            expected += sign * np.mean([(x @ y + constant) ** degree for x in left for y in right]) / 2
    assert nst([f_s], [f_t], degree=degree, constant=constant).item() == pytest.approx(expected, rel=1e-9)


def test_nst_forgets_the_order_and_the_scale_of_channels() -> None:
    f = randn(2, 4, 3, 3)
    scale = torch.tensor([1.0, 2.0, 5.0, 0.1], dtype=torch.float64).view(1, 4, 1, 1)
    assert nst([(scale * f)[:, [3, 1, 0, 2]]], [f]).item() == pytest.approx(0.0, abs=1e-12)
    assert nst([f.flip(2)], [f]).item() > 1e-3


# FSP


def test_fsp_compares_the_products_of_consecutive_layers() -> None:
    shapes = ((3, 8, 8), (3, 4, 4), (5, 4, 4))
    f_s = [randn(2, *shape, seed=i) for i, shape in enumerate(shapes)]
    f_t = [randn(2, *shape, seed=10 + i) for i, shape in enumerate(shapes)]
    method = FSP()
    expected = 0.0
    for i in range(2):
        s, t = ([pooled(n(f), 4, 4) for f in fs[i : i + 2]] for fs in (f_s, f_t))
        g_s, g_t = (np.einsum("bchw,bdhw->bcd", *pair) / 16 for pair in (s, t))
        expected += ((g_s - g_t) ** 2).mean()
    assert method(f_s, f_t).item() == pytest.approx(expected, rel=1e-9)
    assert not list(method.parameters())


def test_fsp_adapts_the_student_where_widths_differ_and_needs_no_equal_resolutions() -> None:
    f_s = [randn(2, 3, 4, 4), randn(2, 4, 4, 4, seed=1)]
    f_t = [randn(2, 5, 8, 8, seed=2), randn(2, 4, 8, 8, seed=3)]
    method = FSP()
    method.prepare(f_s, f_t)
    method.double()
    assert [name for name, _ in method.named_parameters()] == ["adapters.0.weight"]
    g_s = np.einsum("bchw,bdhw->bcd", conv1x1(method.adapters[0], n(f_s[0])), n(f_s[1])) / 16
    g_t = np.einsum("bchw,bdhw->bcd", n(f_t[0]), n(f_t[1])) / 64
    assert method(f_s, f_t).item() == pytest.approx(((g_s - g_t) ** 2).mean(), rel=1e-9)


def test_fsp_needs_two_layers() -> None:
    with pytest.raises(ValueError, match=r"fsp .*two layers, not 1"):
        FSP()([torch.rand(1, 2, 2, 2)], [torch.rand(1, 2, 2, 2)])


# OFD


def test_ofds_margin_is_a_channels_mean_negative_response() -> None:
    t = torch.tensor([[[-1.0, 2.0]], [[1.0, 3.0]], [[-1.0, -2.0]]])[None]  # [1, 3, 1, 2]
    assert margin_of(torch.cat([t, -t])).flatten().tolist() == pytest.approx([-1.5, -2.0, -1.5])
    assert margin_of(t).flatten().tolist() == pytest.approx([-1.0, 0.0, -1.5])


@pytest.mark.parametrize(
    ("s", "t", "expected"),
    [(-1, -0.5, 0), (-0.5, -0.5, 0), (0.2, -0.5, 0.49), (-1, 0.5, 2.25), (1, 0.5, 0.25), (-1, 0, 0)],
)
def test_ofds_partial_distance_by_hand(s: float, t: float, expected: float) -> None:
    """A student below a teacher that is silent anyway is left alone."""
    assert partial_l2(torch.tensor([[s]]), torch.tensor([[t]])).item() == pytest.approx(expected)


def test_ofd_wants_of_a_silent_neuron_only_that_it_stays_below_the_margin() -> None:
    """The connector replaced by nothing: where the teacher is negative, a student below the margin pays nothing."""
    t = torch.tensor([-3.0, -1.0, 2.0]).view(1, 1, 1, 3)  # its margin is −2
    method = OFD()
    method.prepare([t], [t])
    method.layers[0].connector = nn.Identity()
    assert method.layers[0].margin.item() == -2.0 and "layers.0.margin" in method.state_dict()
    s = torch.tensor([-2.5, -4.0, 2.0]).view(1, 1, 1, 3)
    assert method([s], [t]).item() == 0.0
    s = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    assert method([s], [t]).item() == pytest.approx((-2 + 1) ** 2 + 1 + 1)


# ReviewKD


@pytest.mark.parametrize(("size", "levels"), [(8, (4, 2, 1)), (4, (2, 1)), (2, (1,)), (1, ())])
def test_the_hierarchical_context_loss_by_hand(size: int, levels: tuple[int, ...]) -> None:
    s, t = randn(2, 3, size, size), randn(2, 3, size, size, seed=1)
    terms, weights = [((n(s) - n(t)) ** 2).mean()], [1.0]
    for level in levels:
        terms.append(((pooled(n(s), level, level) - pooled(n(t), level, level)) ** 2).mean())
        weights.append(weights[-1] / 2)
    expected = sum(w * x for w, x in zip(weights, terms, strict=True)) / sum(weights)
    assert hierarchical_context_loss(s, t).item() == pytest.approx(expected, rel=1e-9)


def test_reviewkds_fusion_weighs_both_features_by_attention_maps() -> None:
    s, deeper = randn(2, 3, 4, 4), randn(2, 6, 2, 2, seed=1)
    fusion = Fusion(s, torch.rand(2, 5, 8, 8), 6, deepest=False).double()
    _, x = fusion(s, deeper, torch.Size((8, 8)))
    own, above = batch_norm(conv1x1(fusion.narrow[0], n(s))), n(deeper).repeat(2, 2).repeat(2, 3)
    assert fusion.attention is not None
    maps = 1 / (1 + np.exp(-conv1x1(fusion.attention[0], np.concatenate([own, above], 1))))
    expected = (maps[:, :1] * own + maps[:, 1:] * above).repeat(2, 2).repeat(2, 3)
    np.testing.assert_allclose(n(x), expected, rtol=1e-9, atol=1e-12)


def test_reviewkds_fusions_run_as_the_student_does_and_its_loss_in_float32() -> None:
    seen = world("reviewkd", torch.float32)
    method = prepared("reviewkd", seen)
    expected = value(method, seen)
    with torch.autocast("cpu", torch.bfloat16):
        fused, _ = method.fusions[-1](seen.f_s[-1], None, seen.f_t[-1].shape[2:])
        loss = value(method, seen)
    assert fused.dtype == torch.bfloat16 and loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)


def test_reviewkd_gives_deeper_features_to_the_shallower_layers_and_not_the_other_way() -> None:
    f_s = [randn(2, 3, 8, 8).requires_grad_(), randn(2, 4, 4, 4, seed=1).requires_grad_()]
    f_t = [randn(2, 5, 8, 8, seed=2), randn(2, 6, 2, 2, seed=3)]
    method = ReviewKD()
    method.prepare(f_s, f_t)
    method.double()
    fused_deep, deep = method.fusions[1](f_s[1], None, f_t[1].shape[2:])
    fused_shallow, _ = method.fusions[0](f_s[0], deep, f_t[0].shape[2:])
    assert [fused_shallow.shape, fused_deep.shape] == [f.shape for f in f_t]
    by_hand = hierarchical_context_loss(fused_shallow, f_t[0]) + hierarchical_context_loss(fused_deep, f_t[1])
    torch.testing.assert_close(method(f_s, f_t), by_hand)
    assert torch.autograd.grad(fused_shallow.square().sum(), f_s[1], retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(fused_deep.sum(), f_s[0], allow_unused=True)[0] is None


# MGD


def test_mgd_drops_whole_positions_at_the_given_rate() -> None:
    """Teacher and student are 1 everywhere and nothing is generated: the loss counts what was dropped."""
    f = torch.ones(8, 3, 32, 32)
    method = MGD(mask=0.15)
    method.prepare([f], [f])
    method.generators[0] = nn.Identity()
    torch.manual_seed(0)
    dropped = method([f], [f]).item() * 8
    assert dropped % 3 == 0 and dropped / f.numel() == pytest.approx(0.15, abs=0.02)
    assert method([f], [f]).item() * 8 != dropped


def test_mgd_is_the_batch_mean_of_summed_squares_of_what_two_convolutions_generate() -> None:
    f_s, f_t = randn(2, 3, 4, 4), randn(2, 5, 4, 4, seed=1)
    method = MGD(mask=0.0)
    method.prepare([f_s], [f_t])
    method.double()
    generated = conv1x1(method.aligners[0], n(f_s))
    for i, layer in enumerate((method.generators[0][0], method.generators[0][2])):
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(generated, ((0, 0),) * 2 + ((1, 1),) * 2), (3, 3), (2, 3)
        )
        generated = np.einsum("bchwij,ocij->bohw", windows, n(layer.weight)) + n(layer.bias)[None, :, None, None]
        generated = np.maximum(generated, 0) if i == 0 else generated
    assert method([f_s], [f_t]).item() == pytest.approx(((generated - n(f_t)) ** 2).sum() / 2, rel=1e-9)


# SRRL and SimKD


def test_srrl_is_the_distance_of_pooled_features_and_of_what_the_head_makes_of_them() -> None:
    seen = world("srrl", teacher=WIDER)
    method = prepared("srrl", seen, partial(SRRL, alpha=2.0, beta=3.0))
    assert isinstance(method, SRRL)
    h_s = np.maximum(batch_norm(conv1x1(method.connector[0], n(seen.f_s[0]))), 0).mean((2, 3))
    z = h_s @ n(seen.teacher.fc.weight).T + n(seen.teacher.fc.bias)
    expected = 2 * ((h_s - n(seen.f_t[0]).mean((2, 3))) ** 2).mean() + 3 * ((z - n(seen.z_t)) ** 2).mean()
    assert value(method, seen).item() == pytest.approx(expected, rel=1e-6)


def test_srrl_is_zero_for_the_teachers_own_feature() -> None:
    seen = world("srrl")
    method = prepared("srrl", seen)
    assert isinstance(method, SRRL)
    method.connector = nn.Sequential()
    seen.f_s = seen.f_t
    assert value(method, seen).item() == pytest.approx(0.0, abs=1e-12)
    seen.f_s = [-f for f in seen.f_t]
    assert value(method, seen).item() > 0.01


def test_srrl_says_that_it_needs_the_teacher() -> None:
    seen = world("srrl")
    with pytest.raises(ModelError, match=r"srrl .*prepare\(f_s, f_t, teacher\)"):
        value(SRRL(), seen)


@pytest.mark.parametrize("name", ["srrl", "simkd"])
def test_a_head_that_does_not_read_the_feature_is_refused(name: str) -> None:
    seen = world(name)
    for teacher, said in (
        (Teacher(7), "'fc' takes 7 .* 3;"),
        (nn.Identity(), r"no nn\.Linear .* 3 features"),
        (Teacher(3), r"'fc' .*teacher\.classes"),
    ):
        seen.teacher = teacher
        with pytest.raises(ModelError, match=said):
            prepared(name, seen)


@pytest.mark.parametrize("name", ["srrl", "simkd"])
def test_the_head_is_the_teachers_last_linear_and_a_copy(name: str) -> None:
    seen = world(name)
    seen.teacher = nn.ModuleDict({"auxiliary": nn.Linear(9, 9), "last": seen.teacher})
    method = prepared(name, seen)
    assert isinstance(method, SRRL | SimKD) and method.head is not None
    torch.testing.assert_close(method.head.weight, seen.teacher["last"].fc.weight.double())
    seen.teacher["last"].fc.weight.data.zero_()
    assert method.head.weight.any()


@pytest.mark.parametrize("name", ["srrl", "simkd"])
def test_methods_of_the_last_layer_take_one_pair(name: str) -> None:
    seen = world(name)
    seen.f_s, seen.f_t = seen.f_s * 2, seen.f_t * 2
    with pytest.raises(ValueError, match=r"one pair .*2 and 2"):
        prepared(name, seen)


def features(model: nn.Module, path: str, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The feature at `path` and the logits."""
    with torch.no_grad(), Taps(model, [path], "model") as taps:
        logits = model(x)
        return [taps.features[path]], logits


def test_simkd_projects_through_half_the_teachers_channels() -> None:
    seen = world("simkd", teacher=((1, 1, 1), (8, 4, 4)))
    method = prepared("simkd", seen)
    assert isinstance(method, SimKD)
    weights = [list(m.weight.shape) for m in method.projector if isinstance(m, nn.Conv2d)]
    assert weights == [[4, 3, 1, 1], [4, 4, 3, 3], [8, 4, 1, 1]]
    kinds = [type(m) for m in method.projector]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    (s,), (t,) = seen.f_s, seen.f_t
    expected = ((n(method.projector(s)) - pooled(n(t), 2, 2)) ** 2).mean()
    assert value(method, seen).item() == pytest.approx(expected, rel=1e-9)


def test_a_student_with_the_teachers_own_features_answers_as_the_teacher() -> None:
    teacher, x = resnet8().eval(), torch.randn(2, 3, 32, 32)
    f_t, z_t = features(teacher, "layer3", x)
    method = SimKD()
    method.prepare(f_t, f_t, teacher, z_t)
    method.projector = nn.Sequential()
    torch.testing.assert_close(reused(teacher, "layer3", method)(x), z_t)


def test_simkds_student_is_student_projector_average_and_head_and_can_be_exported() -> None:
    torch.manual_seed(0)
    student, teacher, x = resnet8().eval(), BUILT_IN["wrn-16-2"]().eval(), torch.randn(2, 3, 32, 32)
    f_s, _ = features(student, "layer2", x)  # 16x16, twice the teacher's
    f_t, z_t = features(teacher, "relu", x)
    method = SimKD()
    method.prepare(f_s, f_t, teacher, z_t)
    model = reused(student, "layer2", method).eval()
    projected = method.projector(torch.nn.functional.avg_pool2d(f_s[0], 2))
    torch.testing.assert_close(model(x), teacher.fc(projected.mean((2, 3))))
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))
    added = 32 * 64 + 9 * 64 * 64 + 64 * 128 + 2 * (64 + 64 + 128) + 128 * 10 + 10
    assert model.added_parameters == added
    kept = sum(
        p.numel() for part in (student.stem, student.bn, student.layer1, student.layer2) for p in part.parameters()
    )
    assert sum(p.numel() for p in model.parameters()) == kept + added
    assert {id(p) for p in method.projector.parameters()} < {id(p) for p in model.parameters() if p.requires_grad}


def test_simkd_notices_a_layer_that_the_head_does_not_read() -> None:
    """A WRN's last stage is followed by BatchNorm and ReLU, of the same width."""
    teacher, x = BUILT_IN["wrn-16-2"]().eval(), torch.randn(2, 3, 32, 32)
    f_t, z_t = features(teacher, "layer3", x)
    with pytest.raises(ModelError, match=r"'fc' .*teacher\.classes"):
        SimKD().prepare(f_t, f_t, teacher, z_t)


def test_simkd_cannot_deploy_before_it_has_the_head() -> None:
    with pytest.raises(ModelError, match=r"call method\.prepare"):
        reused(resnet8(), "layer3", SimKD())
