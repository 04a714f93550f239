"""The captured graph is the model: small networks of the kinds that once became another function on the way to int8."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from edgekd.errors import QuantizationError
from edgekd.export.to_onnx import to_onnx
from edgekd.quantize import calibrate, convert, prepare, sites
from edgekd.quantize.capture import capture
from edgekd.quantize.operators import aten
from edgekd.quantize.qat import activation_quantizers, train_mode
from edgekd.quantize.same import check_same, is_masked
from edgekd.quantize.scheme import WHY_FLOAT
from edgekd.quantize.sensitivity import float_operators
from edgekd.runtime.check import open_session
from edgekd.target import Quantization
from tests.builders.schemes import INT8, QNN, TENSORRT, UINT8

BOUND = 0.03  # relative root mean square, module against int8; wrong graphs were 25 % to 120 % off


def normed(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics of its own, as training leaves it."""
    norm.running_var.uniform_(0.5, 2)
    norm.running_mean.normal_()
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    return norm


class Pair(nn.Module):
    """Two convolutions; what happens between them is the case."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.other = normed(nn.BatchNorm2d(8)), normed(nn.BatchNorm2d(8))


class SharedConv(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.other(self.a(torch.relu(self.norm(self.a(x))))))


class SharedAtTwoDepths(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(torch.relu(self.b(torch.relu(self.norm(self.a(x)))))))


class OnePath(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.relu(self.norm(self.a(x))))


class SharedWithoutNorm(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.relu(self.b(torch.relu(self.a(x)))))


class WeightReadElsewhere(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x)))) * self.a.weight.abs().mean()


class SliceZero(Pair):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y[:, :4] = 0
        return self.b(y)


class SliceShift(Pair):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = y.clone()
        z[:, :2, :, 1:] = y[:, :2, :, :-1]
        return self.b(z)


class Alias(Pair):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        flat = y.view(y.shape[0], -1)
        torch.relu_(y)
        return self.b(flat.view(y.shape))


class FilledBuffer(Pair):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.zeros_like(y)
        z[:, :4] = y[:, 4:]
        return self.b(z)


class InputWritten(Pair):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5)
        return self.b(torch.relu(self.a(x)) + x)


class ContiguousView(Pair):
    def __init__(self) -> None:
        super().__init__(groups=2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = (y := self.a(x)).shape
        return self.b(y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w))


class StandardisedWeight(Pair):
    def forward(self, x: Tensor) -> Tensor:
        w = self.a.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return self.b(torch.relu(self.norm(F.conv2d(x, w, self.a.bias, padding=1))))


class Dead(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x).clamp(max=0)))


class NormBetween(Pair):
    """Batch norms that no layer can absorb, dropout, and writes in place."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(x), inplace=True)
        return x + self.b(F.dropout(F.relu(self.other(self.a(y)), inplace=True), 0.3, self.training))


class TransposedGroups(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.ConvTranspose2d(8, 16, 2, 2, groups=4), nn.Conv2d(16, 8, 3)
        self.norm = normed(nn.BatchNorm2d(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x))))


class Rows(nn.Module):
    """A linear layer writes the last axis, the batch norm reads axis 1."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(16, outputs), normed(nn.BatchNorm1d(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class TiedTransposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(16, 32), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(F.linear(torch.relu(self.encoder(x)), self.encoder.weight.t())))


class Attention(nn.Module):
    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=batch_first), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        if not self.attention.batch_first:
            x = x.transpose(0, 1)
        y = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(y.mean(1 if self.attention.batch_first else 0))


class Encoder(nn.Module):
    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


def old_weight_norm() -> nn.Module:
    """As training leaves it: the weight on the module is what the last forward pass computed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        normalised = nn.utils.weight_norm(nn.Conv2d(8, 8, 3))
    model = nn.Sequential(normalised, nn.ReLU(), nn.Conv2d(8, 8, 3))
    model(torch.randn(2, 8, 6, 6))
    return model


def parametrized() -> nn.Module:
    first = parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
    return nn.Sequential(first, nn.ReLU(), parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)))


MAPS, SEQUENCES, VECTORS = (16, 8, 6, 6), (16, 12, 16), (32, 16)
Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
CASES: dict[str, Case] = {
    "shared_conv": (SharedConv, MAPS),
    "shared_at_two_depths": (SharedAtTwoDepths, MAPS),
    "one_path": (OnePath, MAPS),
    "shared_without_norm": (SharedWithoutNorm, MAPS),
    "weight_read_elsewhere": (WeightReadElsewhere, MAPS),
    "linear_norm_of_rows": (lambda: Rows(16), (32, 16, 16)),
    "linear_norm_of_longer_rows": (lambda: Rows(24), (32, 16, 16)),
    "slice_zero": (SliceZero, MAPS),
    "slice_shift": (SliceShift, MAPS),
    "alias": (Alias, MAPS),
    "filled_buffer": (FilledBuffer, MAPS),
    "input_written": (InputWritten, MAPS),
    "contiguous_view": (ContiguousView, MAPS),
    "old_weight_norm": (old_weight_norm, MAPS),
    "parametrized": (parametrized, MAPS),
    "standardised_weight": (StandardisedWeight, MAPS),
    "tied_transposed": (TiedTransposed, VECTORS),
    "transposed_groups": (TransposedGroups, MAPS),
    "norm_between": (NormBetween, MAPS),
    "attention": (Attention, SEQUENCES),
    "attention_of_sequences_first": (lambda: Attention(batch_first=False), SEQUENCES),
    "encoder_pre_norm": (lambda: Encoder(norm_first=True), SEQUENCES),
    "encoder_post_norm": (lambda: Encoder(norm_first=False), SEQUENCES),
    "dead": (Dead, MAPS),
}
SCHEMES = {"tensorrt": TENSORRT, "cpu": UINT8, "int8": INT8, "qnn": QNN}


def apart(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what is expected."""
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def quantized(name: str, scheme: Quantization, *, qat: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """(the module, its integer graph, samples)."""
    make, shape = CASES[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(shape)
    prepared = prepare(model, scheme, (x[:2].clone(),), qat=qat)
    calibrate(prepared, [x.clone()])
    return model, convert(prepared), x


@pytest.mark.parametrize("name", CASES)
def test_int8_computes_what_the_module_computes(name: str) -> None:
    """Even cases as TensorRT quantizes, odd ones as the CPU does; `slow` takes every scheme."""
    scheme = (TENSORRT, UINT8)[list(CASES).index(name) % 2]
    model, converted, x = quantized(name, scheme, qat=False)
    with torch.no_grad():
        assert apart(converted(x.clone()), model(x.clone())) < BOUND


@pytest.mark.parametrize("name", ["shared_conv", "one_path", "norm_between", "tied_transposed"])
def test_a_graph_for_training_computes_what_the_module_computes(name: str) -> None:
    """Folds stay expressions there, and norms that nothing absorbs stay norms."""
    model, converted, x = quantized(name, TENSORRT, qat=True)
    with torch.no_grad():
        assert apart(converted(x), model(x)) < BOUND


@pytest.mark.parametrize(
    ("name", "scheme"), [("shared_conv", TENSORRT), ("contiguous_view", UINT8), ("slice_zero", QNN)]
)
def test_onnxruntime_computes_what_was_converted(name: str, scheme: Quantization, tmp_path: Path) -> None:
    assert_exported(name, scheme, tmp_path / "model.onnx", qat=False)


@pytest.mark.slow
@pytest.mark.parametrize("qat", [False, True], ids=["ptq", "qat"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", CASES)
def test_every_scheme_ships_the_module(name: str, scheme: str, qat: bool, tmp_path: Path) -> None:
    assert_exported(name, SCHEMES[scheme], tmp_path / "model.onnx", qat=qat)


def assert_exported(name: str, scheme: Quantization, path: Path, *, qat: bool) -> None:
    """int8 within the bound of the module, the file within a rounding of int8, at the same sites."""
    model, converted, x = quantized(name, scheme, qat=qat)
    to_onnx(converted, path, x[:2].clone(), opset=20)
    (got,) = open_session(path).run(None, {"input": x.numpy()})
    with torch.no_grad():
        integer = converted(x.clone())
        assert apart(integer, model(x.clone())) < BOUND
    assert apart(torch.from_numpy(got), integer) < 0.015
    assert sites(path) == sites(converted)


def test_a_wrong_graph_is_refused_and_the_layer_named() -> None:
    """A captured graph whose second convolution was changed, as a wrong fold would."""
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()).eval(),
        torch.randn(3, 8, 8, 8),
    )
    graph = capture(model, (x,), trainable=False)
    check_same(model, graph, (x,), trained=False)
    second = graph.graph.find_nodes(op="call_function", target=aten.conv2d.default)[1]
    second.args = (*second.args[:2], None, *second.args[3:])
    graph.recompile()
    with pytest.raises(QuantizationError, match=r"'2' \(Conv2d\)"):
        check_same(model, graph, (x,), trained=False)


def test_a_difference_between_modules_is_placed_between_them() -> None:
    """A write to a slice that was lost lies in no module but the outermost."""
    torch.manual_seed(0)
    model, x = SliceZero().eval(), torch.randn(3, 8, 6, 6)
    graph = capture(model, (x,), trainable=False)
    first, second = graph.graph.find_nodes(op="call_function", target=aten.conv2d.default)
    second.update_arg(0, first)
    graph.recompile()
    with pytest.raises(QuantizationError, match=r"'a' and 'b' \(Conv2d\)"):
        check_same(model, graph, (x,), trained=False)


def test_a_comparison_in_training_leaves_modes_and_statistics_as_they_were() -> None:
    """A batch norm that takes its batch's statistics also writes to the running ones."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)).eval(), torch.randn(3, 8, 8, 8)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    graph = capture(model, (x,), trainable=True)
    check_same(model, graph, (x,), trained=True)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not model[1].training


class Random(Pair):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(self.a(x), 0.5))  # in evaluation too: training=True is its default


class Mixing(Pair):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y - y.mean(0, keepdim=True))


@pytest.mark.parametrize(
    ("model", "message"), [(Random, r"Random .*training=self\.training"), (Mixing, "Mixing.*running statistics")]
)
def test_a_model_that_is_no_function_of_a_sample_is_refused_by_that_name(model: type[nn.Module], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        prepare(model().eval(), TENSORRT, (torch.randn(2, 8, 6, 6),))


def test_a_norm_without_statistics_is_refused_by_that_name() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)).eval()
    with pytest.raises(QuantizationError, match=r"batch.*running statistics"):
        prepare(model, TENSORRT, (torch.randn(2, 8, 6, 6),))


class Masked(nn.Module):
    """Attention's scores with a mask, `at` where it says no."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.qk, self.v = nn.Linear(16, 32), nn.Linear(16, 16)
        self.register_buffer("mask", torch.full((6, 6), at).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, -1)
        found: Tensor = ((q @ k.transpose(1, 2) + self.mask).softmax(-1) @ self.v(x)).mean(1)
        return found


@pytest.mark.parametrize("scheme", [TENSORRT, UINT8, QNN])
@pytest.mark.parametrize("at", [float("-inf"), torch.finfo(torch.float32).min, -1e4])
def test_what_a_mask_is_in_stays_in_float_with_the_reason(at: float, scheme: Quantization) -> None:
    """One scale for -10000 and for scores would leave nothing of the scores; none reaches infinity."""
    torch.manual_seed(0)
    model, x = Masked(at).eval(), torch.randn(64, 6, 16)
    prepared = prepare(model, scheme, (x[:2],))
    assert "a mask is among its values" in {operator.why for operator in float_operators(prepared)}
    calibrate(prepared, [x])
    with torch.no_grad():
        assert apart(convert(prepared)(x), model(x)) < BOUND


def test_a_mask_that_comes_with_a_later_sample_is_seen_and_a_layer_behind_it_reads_float() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.behind = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.behind(self.first(x).masked_fill(x > 3, -1e4).flatten(1))
            return found

    torch.manual_seed(0)
    x = torch.randn(3, 16).clamp(-2, 2)
    x[2, 5] = 4.0
    for scheme in (TENSORRT, UINT8, QNN):
        prepared = prepare(Padded().eval(), scheme, (x,))
        calibrate(prepared, [x])
        *scales, _ = [float(quantizer.scale) for _, quantizer in activation_quantizers(prepared)]  # but the answer's
        assert max(scales, default=0.0) < 1, (scheme.source, scales)


def test_a_softmax_keeps_its_least_scale_in_training() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 32), nn.Softmax(1)).eval(), torch.randn(64, 16) * 0.01
    prepared = prepare(model, QNN, (x[:2],), qat=True)
    calibrate(prepared, [x])
    train_mode(prepared)
    for _ in range(300):
        prepared(x)
    assert dict(activation_quantizers(prepared))["softmax"].scale >= 1 / (148 * 32)


def test_an_operator_that_was_merged_is_kept_in_float_by_either_path() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b, self.last = nn.Linear(16, 16), nn.GELU(), nn.GELU(), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            found: Tensor = self.last(self.a(y) + self.b(y))
            return found

    for path in ("a", "b"):
        prepared = prepare(Twins().eval(), QNN, (torch.randn(2, 16),), keep_float=[path])
        (gelu,) = prepared.graph.find_nodes(op="call_function", target=aten.gelu.default)
        assert gelu.meta[WHY_FLOAT] == "keep_float names it"


def test_sites_of_a_long_chain_of_branches_are_found() -> None:
    """Each step reads the one before twice: what is asked again for each way would take 2^40 questions."""

    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.gelu(x)
            for _ in range(40):
                y = nn.functional.max_pool2d(torch.cat([y, y.transpose(1, 2)], 3)[..., :4, :4], 1)
            return y

    prepared = prepare(Chain(), UINT8, (torch.randn(2, 4, 4, 4),))
    assert len(prepared.graph.find_nodes(op="call_function", target=aten.max_pool2d.default)) == 40


def test_large_values_are_no_mask() -> None:
    assert not is_masked(torch.linspace(0, 1e5, 1000)) and not is_masked(torch.full((3,), 1e6))
    assert not is_masked(torch.tensor([0.0] * 1000 + [1200.0]))
    assert is_masked(torch.tensor([1.0, 2.0, -1e4])) and is_masked(torch.tensor([0.0, float("inf")]))


def test_what_is_computed_twice_of_the_same_values_is_one_site(tmp_path: Path) -> None:
    """The exporter merges them; a site that it merged would have been trained and not shipped."""
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            drop = nn.functional.dropout
            return torch.cat([y[:, :8].sigmoid() * 2, drop(y[:, :8], 0.5, self.training) - 1], 1).mean((2, 3))

    model, x = Twice().eval(), torch.randn(32, 3, 8, 8)
    prepared = prepare(model, QNN, (x[:2],))
    assert len(prepared.graph.find_nodes(op="call_function", target=aten.slice.Tensor)) == 1
    calibrate(prepared, [x])
    converted = convert(prepared)
    to_onnx(converted, tmp_path / "model.onnx", x[:2], opset=20)
    assert sites(tmp_path / "model.onnx") == sites(converted)


@pytest.mark.parametrize("size", [2, 3, 10])
def test_a_softmax_of_nearly_equal_shares_is_the_same_in_onnxruntime(size: int, tmp_path: Path) -> None:
    """Its integer softmax overflows at scales below 1 / (148 size), and then gives 0 for the largest."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, size), nn.Softmax(1)).eval(), torch.randn(256, 16) * 0.1
    prepared = prepare(model, QNN, (x[:2],))
    calibrate(prepared, [x])
    converted = convert(prepared)
    to_onnx(converted, tmp_path / "model.onnx", x[:2], opset=20)
    (got,) = open_session(tmp_path / "model.onnx").run(None, {"input": x.numpy()})
    with torch.no_grad():
        assert float((torch.from_numpy(got) - converted(x)).abs().max()) < 2 / 255 * 2 / size  # a step or two


def test_what_changes_nothing_is_no_operator() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return sum([x.relu() * 1, (x + 2) / 1]) - 0  # type: ignore[no-any-return]

    graph = capture(Sum(), (torch.randn(2, 3),), trainable=False)
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert called == [aten.relu.default, aten.add.Tensor, aten.add.Tensor]


def test_noise_that_is_drawn_twice_stays_two() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.rand_like(x) - torch.rand_like(x)

    graph = capture(Noise(), (torch.zeros(2, 3),), trainable=False)
    assert graph(torch.zeros(2, 3)).abs().max() > 0


def test_blank_samples_hide_nothing() -> None:
    """On zeros two random answers of a layer without bias are alike."""
    model = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, track_running_stats=False)).eval()
    with pytest.raises(QuantizationError, match=r"batch.*running statistics"):
        prepare(model, TENSORRT, (torch.zeros(2, 8, 6, 6),))


def test_the_model_is_left_as_it_was() -> None:
    """Parametrizations stay on the user's module, and its weights too."""
    torch.manual_seed(0)
    model = parametrized().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepare(model, TENSORRT, (torch.randn(2, 8, 8, 8),))
    assert model.training and set(before) == set(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.requires_grad and nn.utils.parametrize.is_parametrized(model[2])
