"""What each refinement promises: the float function, the mean, the reconstruction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.models.mobilenet import mobilenetv2_05
from edgekd.models.resnet import resnet8
from edgekd.quantize import calibrate, convert, prepare, sites
from edgekd.quantize.cle import equalize, pairs_of
from edgekd.quantize.layers import Layer, give_biases, layers_of
from edgekd.quantize.qat import in_float
from edgekd.quantize.refine import refine
from edgekd.target import Quantization
from tests.builders.networks import seeded
from tests.builders.schemes import ONNXRUNTIME, TENSORRT


class Chain(nn.Module):
    """An uneven convolution, a depthwise one, a strided one without bias, a pool and a linear layer on the flat map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.c, self.d = nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False), nn.Linear(6 * 4, 5)
        with torch.no_grad():
            self.a.weight.mul_(torch.logspace(-1.5, 1.5, 8).reshape(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        x = nn.functional.max_pool2d(torch.relu(self.c(x)), 2)
        return self.d(x.flatten(1))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(n: int = 16) -> Tensor:
    return torch.randn(n, 3, 8, 8)


def calibrated(model: nn.Module, scheme: Quantization, x: Tensor) -> GraphModule:
    prepared = prepare(model, scheme, (x[:2],))
    give_biases(prepared)
    calibrate(prepared, [x])
    return prepared


def traced(prepared: GraphModule, x: Tensor, *, quantized: bool) -> dict[str, Tensor]:
    """The output of every node."""
    seen: dict[str, Tensor] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Tensor:
            seen[node.name] = super().run_node(node)
            return seen[node.name]

    with torch.no_grad():
        if quantized:
            Watch(prepared).run(x)
        else:
            with in_float(prepared):
                Watch(prepared).run(x)
    return seen


@pytest.mark.parametrize("scheme", [TENSORRT, ONNXRUNTIME])
@pytest.mark.parametrize("model", [Chain, resnet8, mobilenetv2_05])
def test_equalization_keeps_the_float_function(model: type[nn.Module], scheme: Quantization) -> None:
    built, x = seeded(model()), images()
    expected = built(x).detach()
    prepared = prepare(built, scheme, (x[:2],))
    pairs = equalize(prepared)
    assert pairs or model not in (Chain, resnet8)
    with torch.no_grad(), in_float(prepared):
        found = prepared(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_equalized_layers_have_the_same_range_in_each_channel() -> None:
    prepared = prepare(seeded(Chain()), TENSORRT, (images(2),))
    assert equalize(prepared) == [("a", "b"), ("b", "c"), ("c", "d")]
    a, b, c, d = (layer.weight.detach() for layer in layers_of(prepared))
    torch.testing.assert_close(a.abs().amax((1, 2, 3)), b.abs().amax((1, 2, 3)), rtol=2e-2, atol=0)
    torch.testing.assert_close(b.abs().amax((1, 2, 3)), c.abs().amax((0, 2, 3)), rtol=2e-2, atol=0)
    # a channel of the map is a block of four inputs of the linear layer
    torch.testing.assert_close(c.abs().amax((1, 2, 3)), d.reshape(5, 6, 4).abs().amax((0, 2)), rtol=2e-2, atol=0)


def test_a_skip_or_a_saturating_activation_between_two_layers_keeps_them_apart() -> None:
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            return self.c(nn.functional.relu6(self.b(y) + y))

    assert pairs_of(prepare(Apart(), TENSORRT, (images(2),))) == []


@pytest.mark.parametrize("scheme", [TENSORRT, ONNXRUNTIME])
@pytest.mark.parametrize("model", [Chain, resnet8])
def test_bias_correction_zeroes_the_mean_error_of_every_layer(model: type[nn.Module], scheme: Quantization) -> None:
    built, x = seeded(model()), images(32)
    prepared = calibrated(built, scheme, x)
    layers = layers_of(prepared)

    def mean_errors() -> Tensor:
        with torch.no_grad():
            runs = traced(prepared, x, quantized=True)
        return torch.stack([_channels(runs[n] - expected[n]).abs().max() for n in expected])

    expected = traced(prepared, x, quantized=False)
    expected = {layer.node.name: expected[layer.node.name] for layer in layers}
    before = mean_errors()
    refine(prepared, [x[:16], x[16:]], ["bias_correction"])
    largest = torch.stack([y.abs().max() for y in expected.values()])
    assert bool((before / largest > 1e-4).any())
    # Where biases ship as int32 they are rounded to half a step of the accumulator.
    steps = [max(math.prod(scales) for scales in zip(*_scales(layer), strict=True)) for layer in layers]
    allowed = torch.tensor(steps) * (0.51 if scheme.int32_bias else 0.0)
    assert bool((mean_errors() < allowed + 2e-6 * largest).all())


def _scales(layer: Layer) -> tuple[list[float], list[float]]:
    """Of a layer's input, repeated, and of each channel of its weight."""
    x, weight = layer.quantizers
    return [float(x.scale)] * weight.scale.numel(), weight.scale.tolist()


def _channels(y: Tensor) -> Tensor:
    return y.mean((0, 2, 3)) if y.dim() == 4 else y.mean(0)


@pytest.mark.parametrize(("model", "scheme"), [(Chain, TENSORRT), (Chain, ONNXRUNTIME), (resnet8, TENSORRT)])
def test_adaround_rebuilds_each_layer_better_than_rounding_to_nearest(
    model: type[nn.Module], scheme: Quantization
) -> None:
    """Given the inputs that it had: what every layer computes from them is nearer to the float output."""
    x = images(32)
    prepared = calibrated(seeded(model()), scheme, x)
    floats = traced(prepared, x, quantized=False)
    before = {layer.name: layer.weight.detach().clone() for layer in layers_of(prepared)}
    refine(prepared, [x[:16], x[16:]], ["adaround"])
    after = traced(prepared, x, quantized=True)
    gains = []
    for layer in layers_of(prepared):
        scale = layer.quantizer.scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
        levels = layer.weight.detach() / scale
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
        assert float((levels - before[layer.name] / scale).abs().max()) < 1.001  # up or down, no further
        source = after[layer.node.args[0].name]
        rest = layer.node.args[3:]
        bias = layer.bias.detach()
        errors = [
            (layer.node.target(source, weight, bias, *rest) - floats[layer.node.name]).square().mean().item()
            for weight in ((before[layer.name] / scale).round().clamp(-127, 127) * scale, layer.weight.detach())
        ]
        assert errors[1] <= errors[0] * (1 + 1e-4)
        gains.append(errors[1] / errors[0])
    assert min(gains) < 0.9


def test_a_refined_model_converts_to_the_weights_that_it_chose() -> None:
    x = images(32)
    prepared = calibrated(seeded(Chain()), ONNXRUNTIME, x)
    expected = sites(prepared)
    refine(prepared, [x], ["adaround", "bias_correction"])
    weight = layers_of(prepared)[0].weight.detach().clone()
    scale = layers_of(prepared)[0].quantizer.scale.reshape(-1, 1, 1, 1).clone()
    with torch.no_grad():
        trained = prepared(x)
        converted = convert(prepared)
        assert sites(converted) == expected
        torch.testing.assert_close(converted.get_buffer("a.weight_quantized") * scale, weight)
        step = float((trained.max() - trained.min()) / 255)
        torch.testing.assert_close(converted(x), trained, rtol=0, atol=step)


class Tokens(nn.Module):
    """Linear layers whose channels come last, and a head on the flattened tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(3 * 8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).relu()).relu().flatten(1))


def test_layers_of_tokens_are_equalized_where_channels_meet_and_their_means_are_corrected() -> None:
    """`b` gives tokens of 4 channels, which `head` reads token by token: no block of its inputs is one channel."""
    model, x = seeded(Tokens()), images(16)
    with torch.no_grad():
        model.b.weight.mul_(torch.logspace(-1, 1, 4)[:, None])
    prepared = prepare(model, TENSORRT, (x[:2],))
    assert equalize(prepared) == [("a", "b")]
    with torch.no_grad(), in_float(prepared):
        torch.testing.assert_close(prepared(x), model(x), rtol=1e-4, atol=1e-5)
    calibrate(prepared, [x])
    before, expected = traced(prepared, x, quantized=True), traced(prepared, x, quantized=False)
    refine(prepared, [x], ["bias_correction"])
    after = traced(prepared, x, quantized=True)
    for name in (layer.node.name for layer in layers_of(prepared)):
        old, new = ((run[name] - expected[name]).flatten(0, -2).mean(0).abs().max() for run in (before, after))
        assert new < 1e-5 < old
