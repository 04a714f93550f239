"""What one pass over the samples keeps, and the ranges that each method decides from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import QuantizationError
from edgekd.quantize import calibrate, convert, prepare
from edgekd.quantize.ptq import TIE_BREAK, set_ranges
from edgekd.quantize.ranges import LEVELS, RANGES, entropy, grid, minmax, moving_average, mse, percentile
from edgekd.quantize.statistics import BINS, Statistics, load_statistics, observe, quantizers_by_tensor, save_statistics
from edgekd.target import Quantization
from tests.builders.networks import QUANTIZE, Block, images, seeded
from tests.builders.schemes import ONNXRUNTIME, TENSORRT


def statistics(*batches: Tensor) -> Statistics:
    seen = Statistics()
    for batch in batches:
        seen.add(batch)
    return seen


def fake(x: np.ndarray, limits: tuple[float, float], symmetric: bool) -> np.ndarray:
    scale, zero_point = grid(limits, symmetric)
    return (np.clip(np.rint(x / scale) + zero_point, 0, LEVELS - 1) - zero_point) * scale


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_a_histogram_that_grew_counts_as_one_that_knew_its_range() -> None:
    x = torch.randn(10_000)
    grown = statistics(*(x * scale for scale in (0.01, 1.0, 7.0)))
    known = statistics(7 * x, x, 0.01 * x)
    assert grown.limit == known.limit == 2.0 ** np.ceil(np.log2(float((7 * x).abs().max())))
    assert int(grown.counts.sum()) == 30_000
    assert torch.equal(grown.counts, known.counts)
    expected, _ = np.histogram((7 * x).double().numpy(), BINS, (-grown.limit, grown.limit))
    assert np.array_equal(statistics(7 * x).counts.numpy(), expected)


def test_the_ends_of_a_histogram_are_part_of_it() -> None:
    counts = statistics(torch.tensor([-1.0, 0.0, 1.0])).counts
    assert [int(counts[i]) for i in (0, BINS // 2, BINS - 1)] == [1, 1, 1]


def test_min_max_is_all_that_was_seen_and_the_average_follows_the_batches() -> None:
    seen = statistics(torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]))
    assert minmax(seen, symmetric=False) == (-3.0, 2.0)
    assert moving_average(seen, symmetric=False) == pytest.approx((-1.2, 1.9))  # 0.9 · first + 0.1 · second


def test_a_percentile_leaves_out_its_share_of_the_values() -> None:
    x = torch.cat([torch.rand(1_000_000), torch.tensor([40.0, 50.0, 60.0])])
    low, high = percentile(statistics(x), symmetric=False)
    expected = float(np.quantile(x.numpy(), 0.99999))
    assert low == pytest.approx(0, abs=0.02) and high == pytest.approx(expected, abs=2 * 64 * 2 / BINS)
    assert percentile(statistics(x - 0.5), symmetric=True)[1] < 0.6


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_range_of_least_squared_error_is_the_best_of_a_grid(symmetric: bool) -> None:
    x = torch.distributions.Laplace(0, 1).sample((200_000,))
    found = mse(statistics(x), symmetric=symmetric)
    values = x.double().numpy()
    errors = {t: float(np.square(values - fake(values, (-t, t), symmetric)).mean()) for t in np.linspace(2, 14, 49)}
    error = float(np.square(values - fake(values, found, symmetric)).mean())
    assert error <= 1.01 * min(errors.values())
    assert error < 0.9 * errors[14.0] or max(-found[0], found[1]) < 13


def test_entropy_cuts_an_outlier_that_min_max_keeps() -> None:
    x = torch.cat([torch.randn(100_000), torch.tensor([100.0])])
    low, high = entropy(statistics(x), symmetric=True)
    assert 2 < max(-low, high) < 30
    assert minmax(statistics(x), symmetric=True)[1] == 100


def test_entropy_of_values_that_are_levels_already_keeps_them_all() -> None:
    """A distribution that the whole range represents exactly has no divergence there, so nothing is cut off."""
    x = (torch.arange(-127, 128) * (1 / 127.5)).repeat(100)
    low, high = entropy(statistics(x), symmetric=True)
    assert max(-low, high) == pytest.approx(127 / 127.5, rel=0.01)


@pytest.mark.parametrize("method", RANGES)
@pytest.mark.parametrize("scheme", [TENSORRT, ONNXRUNTIME])
def test_another_method_needs_no_new_pass(method: str, scheme: Quantization, tmp_path: Path) -> None:
    """Ranges from the stored statistics are those of a calibration by that method."""
    model, batches = seeded(Block()), [images(), images()]
    stored, direct = (prepare(model, scheme, (images(2),)) for _ in range(2))
    save_statistics(observe(stored, batches), tmp_path / "statistics.safetensors")
    calibrate(direct, batches, method)
    set_ranges(stored, load_statistics(tmp_path / "statistics.safetensors"), method)
    scales = [[float(q.scale) for q in quantizers_by_tensor(graph).values()] for graph in (stored, direct)]
    assert scales[0] == scales[1]


@pytest.mark.parametrize(("scheme", "steps"), [(TENSORRT, 127.5), (ONNXRUNTIME, 255)])
def test_scales_in_the_converted_model_are_those_of_the_range(scheme: Quantization, steps: float) -> None:
    prepared, x = prepare(seeded(Block()), scheme, (images(2),)), images()
    calibrate(prepared, [x], "minmax")
    converted = convert(prepared)
    scale = next(n.args[1] for n in converted.graph.nodes if n.target is QUANTIZE and n.args[0].op == "placeholder")
    spread = x.abs().max() if steps == 127.5 else x.max() - x.min()
    assert scale == pytest.approx(float(spread) * TIE_BREAK / steps, rel=1e-6)


@pytest.mark.parametrize("qat", [False, True])
def test_calibration_sees_the_float_model_and_leaves_no_hook(qat: bool) -> None:
    model, x = seeded(Block()), images()
    with torch.no_grad():
        inner = model.bn1(model.conv1(x)).relu()
        expected = float(model.pool((model.bn2(model.conv2(inner)) + inner).relu()).max())
    prepared = prepare(model, TENSORRT, (images(2),), qat=qat)
    seen = observe(prepared, [x[:8], x[8:]])
    assert set(seen) == {"x", "relu_", "flatten"}
    assert seen["flatten"].high == pytest.approx(expected, rel=1e-5)
    assert not any(module._forward_pre_hooks for module in prepared.modules())


class Scaled(nn.Module):
    """Inputs times a constant, which may spoil them."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.factor)


def test_an_activation_that_is_not_finite_is_named() -> None:
    with pytest.raises(QuantizationError, match="'mul' is NaN"):
        calibrate(prepare(Scaled(float("nan")), TENSORRT, (images(2),)), [images()])


def test_a_layer_that_is_always_zero_is_exact_with_any_scale() -> None:
    model = Scaled(0.0)
    prepared = prepare(model, TENSORRT, (images(2),))
    calibrate(prepared, [images()])
    assert torch.equal(prepared(images()), model(images()))


def test_samples_that_are_all_one_value_are_refused() -> None:
    with pytest.raises(QuantizationError, match="calibration sample is 0"):
        calibrate(prepare(nn.Conv2d(3, 4, 1), ONNXRUNTIME, (images(2),)), [torch.zeros_like(images())])
