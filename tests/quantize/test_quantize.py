"""Which tensors each target quantizes, and what calibration, conversion and training keep."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.errors import ExportError, QuantizationError
from edgekd.models.resnet import resnet8
from edgekd.quantize import calibrate, convert, eval_mode, freeze_bn, freeze_observers, prepare, sites, train_mode
from edgekd.quantize.qat import in_float
from edgekd.target import Quantization
from tests.builders.networks import QUANTIZE, Block, MobileBlock, images, seeded
from tests.builders.schemes import ONNXRUNTIME, QNN, TENSORRT


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def calibrated(model: nn.Module, scheme: Quantization, *, qat: bool = False) -> GraphModule:
    prepared = prepare(model, scheme, (images(2),), qat=qat)
    calibrate(prepared, [images()])
    return prepared


def activations(prepared: GraphModule) -> list[str]:
    return sorted(site.tensor for site in sites(prepared) if not site.tensor.endswith("weight"))


def test_tensorrt_quantizes_inputs_of_convolutions_and_the_skip_alone() -> None:
    prepared = prepare(seeded(Block()), TENSORRT, (images(2),))
    # x and relu feed convolutions, relu is the skip too, flatten feeds the classifier
    assert activations(prepared) == ["flatten", "relu_", "x"]


def test_tensorrt_zero_points_are_all_zero() -> None:
    converted = convert(calibrated(seeded(Block()), TENSORRT))
    zero_points = [node.args[2] for node in converted.graph.nodes if node.target is QUANTIZE]
    assert zero_points == [0, 0, 0]


def test_tensorrt_quantizes_the_projection_of_a_residual_not_its_main_branch() -> None:
    prepared = prepare(resnet8(), TENSORRT, (images(2),))
    skips = [name for name in activations(prepared) if name.startswith("conv2d")]
    # in the traced order conv2d_4 ends the main branch of the second block, conv2d_5 is its 1x1 projection
    assert skips == ["conv2d_5", "conv2d_8"]


def test_onnxruntime_quantizes_outputs_after_their_relu_and_keeps_logits_float() -> None:
    prepared = prepare(seeded(Block()), ONNXRUNTIME, (images(2),))
    assert activations(prepared) == ["adaptive_avg_pool2d", "conv2d_1", "flatten", "relu_", "relu__1", "x"]


def test_operators_that_move_values_share_the_scale_of_their_input() -> None:
    converted = convert(calibrated(seeded(Block()), ONNXRUNTIME))
    scales = {node.args[0].name: node.args[1:3] for node in converted.graph.nodes if node.target is QUANTIZE}
    assert scales["flatten"] == scales["adaptive_avg_pool2d"] != scales["relu__1"]


def test_concatenated_tensors_share_one_scale() -> None:
    class Concatenate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat([self.a(x), 5 * self.b(x).relu()], 1).relu())

    # the second input is a float product: then the concatenation stays float
    prepared = prepare(Concatenate(), ONNXRUNTIME, (images(2),))
    assert "cat" not in activations(prepared)

    class Direct(Concatenate):
        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat([self.a(x), self.b(x).relu()], 1))

    converted = convert(calibrated(Direct(), ONNXRUNTIME.model_copy(update={"activation_symmetric": True})))
    scales = {node.args[0].name: node.args[1:3] for node in converted.graph.nodes if node.target is QUANTIZE}
    assert scales["conv2d"] == scales["relu"] == scales["cat"]
    # In onnxruntime a ReLU is part of its convolution only where the zero-point is its own: 0, not that of a signed branch.
    converted = convert(calibrated(Direct(), ONNXRUNTIME))
    scales = {node.args[0].name: node.args[1:3] for node in converted.graph.nodes if node.target is QUANTIZE}
    assert scales["conv2d"] == scales["cat"] != scales["relu"] and scales["relu"][1] == 0


def test_a_float_branch_is_quantized_before_a_concatenation_that_integers_read() -> None:
    class Upsampled(nn.Module):
        def __init__(self, read: bool) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 4, 2, 2), nn.ConvTranspose2d(4, 4, 4, 2, 1)
            self.skip, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1) if read else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(torch.cat([self.skip(x).relu(), self.up(self.down(x))], 1))
            return y

    # onnxruntime has no integer transposed convolution, and blocks that overlap are no other integer operator.
    assert {"relu", "conv_transpose2d", "cat"} <= set(
        activations(prepare(Upsampled(read=True), ONNXRUNTIME, (images(2),)))
    )
    assert not {"conv_transpose2d", "cat"} & set(activations(prepare(Upsampled(read=False), ONNXRUNTIME, (images(2),))))


def test_what_moving_operators_lie_between_shares_one_scale_on_tensorrt() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x).relu()
            return self.c(torch.cat([a, 9 * self.b(a)], 1))

    converted = convert(calibrated(Branches(), TENSORRT))
    scales = {node.args[0].name: node.args[1] for node in converted.graph.nodes if node.target is QUANTIZE}
    assert set(scales) == {"x", "relu", "cat"} and scales["relu"] == scales["cat"] != scales["x"]


# inputs of the seven convolutions and of the classifier; `silu` is the skip of the addition too
WEIGHTED_INPUTS = ["add", "mean", "mean_1", "mul", "silu", "silu_", "silu_1", "x"]


def test_tensorrt_quantizes_no_output_of_an_activation_that_is_no_input_of_a_layer() -> None:
    assert activations(prepare(seeded(MobileBlock()), TENSORRT, (images(2),))) == WEIGHTED_INPUTS


def test_silu_is_two_integer_operators_on_the_cpu_and_the_pool_behind_a_hardswish_stays_float() -> None:
    found = activations(prepare(seeded(MobileBlock()), ONNXRUNTIME, (images(2),)))
    outputs = ["conv2d", "conv2d_1", "conv2d_3", "conv2d_4", "conv2d_5", "conv2d_6", "relu6", "sigmoid"]
    gates = ["sigmoid_default", "sigmoid_default_1", "sigmoid_default_2"]
    assert found == sorted([*WEIGHTED_INPUTS, *outputs, *gates])


def test_qnn_quantizes_every_tensor_and_keeps_one_scale_where_weights_are_no_convolutions() -> None:
    prepared = prepare(seeded(MobileBlock()), QNN, (images(2),))
    outputs = ["conv2d", "conv2d_1", "conv2d_3", "conv2d_4", "conv2d_5", "conv2d_6", "hardswish", "relu6", "sigmoid"]
    assert activations(prepared) == sorted([*WEIGHTED_INPUTS, *outputs, "linear"])
    per_channel = {site.tensor: site.per_channel for site in sites(prepared) if site.tensor.endswith("weight")}
    assert [name for name, each in per_channel.items() if not each] == ["fc.weight"] and len(per_channel) == 8


def test_sixteen_bit_activations_on_qnn_are_finer_than_eight() -> None:
    def error(scheme: Quantization) -> float:
        with torch.no_grad():
            return float((convert(calibrated(model, scheme))(x) - model(x)).abs().mean())

    model, x = seeded(MobileBlock()), images()
    sixteen = QNN.model_copy(update={"activation": "uint16"})
    assert {site.dtype for site in sites(calibrated(model, sixteen))} == {"uint16", "int8"}
    assert error(sixteen) < 0.7 * error(QNN)


def test_few_channels_stay_float() -> None:
    scheme = TENSORRT.model_copy(update={"min_channels": 8})
    # the excitation has 16 channels on one side; the classifier 4 on one of its
    assert activations(prepare(seeded(MobileBlock()), scheme, (images(2),))) == sorted({*WEIGHTED_INPUTS} - {"mean_1"})
    scheme = TENSORRT.model_copy(update={"min_channels": 16})
    found = activations(prepare(seeded(MobileBlock()), scheme, (images(2),)))
    assert found == sorted({*WEIGHTED_INPUTS} - {"mean_1", "x"})


@pytest.mark.parametrize(
    ("keep", "missing"),
    [
        (("first",), {"stem.weight"}),
        (("first", "last"), {"stem.weight", "fc.weight"}),
        (("squeeze", "head"), {"squeeze.weight", "head.weight"}),
    ],
)
def test_operators_named_by_keep_float_stay_float(keep: tuple[str, ...], missing: set[str]) -> None:
    def weights(**options: tuple[str, ...]) -> set[str]:
        prepared = prepare(seeded(MobileBlock()), ONNXRUNTIME, (images(2),), **options)
        return {site.tensor for site in sites(prepared) if site.tensor.endswith("weight")}

    assert weights() - weights(keep_float=keep) == missing


def test_a_module_in_keep_float_keeps_its_additions_float_too() -> None:
    prepared = prepare(nn.Sequential(seeded(Block()), nn.Softmax(1)), ONNXRUNTIME, (images(2),), keep_float=("0",))
    assert sites(prepared) == set()


def test_keep_float_refuses_a_name_that_is_no_module() -> None:
    with pytest.raises(QuantizationError, match=r"keep_float = 'sqeeze' .*Did you mean squeeze"):
        prepare(MobileBlock(), ONNXRUNTIME, (images(2),), keep_float=("sqeeze",))


def test_linear_layers_of_tokens_are_matrix_products_on_the_cpu() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x.flatten(1, 2)).relu()).mean(1)

    model, x = Tokens().eval(), images()
    prepared = prepare(model, ONNXRUNTIME, (x[:2],))
    products = [node for node in prepared.graph.nodes if node.target is torch.ops.aten.linear.default]
    assert [node.meta["val"].dim() for node in products] == [2, 2]
    with in_float(prepared):
        torch.testing.assert_close(prepared(x), model(x))


def test_batch_norm_is_folded_exactly_and_the_model_is_untouched() -> None:
    model = seeded(Block())
    before, x = copy.deepcopy(model.state_dict()), images()
    expected = model(x)
    for qat in (False, True):
        prepared = prepare(model, TENSORRT, (images(2),), qat=qat)
        for module in prepared.modules():
            if hasattr(module, "enable_fake_quant"):
                module.enable_fake_quant(False)
        torch.testing.assert_close(prepared(x), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_operator_that_cannot_be_quantized_stays_float() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.erf(self.up(self.conv(x).cumsum(2))).mean((2, 3))

    for scheme in (TENSORRT, ONNXRUNTIME):
        converted = convert(calibrated(Odd(), scheme))
        assert converted(images(5)).shape == (5, 4)


@pytest.mark.parametrize("scheme", [TENSORRT, ONNXRUNTIME])
@pytest.mark.parametrize("qat", [False, True])
def test_converted_sites_are_the_prepared_ones(scheme: Quantization, qat: bool) -> None:
    prepared = calibrated(seeded(Block()), scheme, qat=qat)
    expected = sites(prepared)
    assert sites(convert(prepared)) == expected


def test_converted_weights_are_int8_within_half_a_step_of_the_folded_ones() -> None:
    model = seeded(Block())
    bn = model.bn1
    folded = model.conv1.weight * (bn.weight / (bn.running_var + bn.eps).sqrt()).reshape(-1, 1, 1, 1)
    converted = convert(calibrated(model, TENSORRT))
    stored = converted.get_buffer("conv1.weight_quantized")
    assert stored.dtype == torch.int8 and int(stored.min()) >= -127
    scale = folded.abs().amax((1, 2, 3), keepdim=True) / 127
    assert bool(((stored * scale - folded).abs() <= 0.51 * scale).all())


def test_int32_biases_are_multiples_of_the_accumulators_step() -> None:
    converted = convert(calibrated(seeded(Block()), ONNXRUNTIME))
    conv = next(node for node in converted.graph.nodes if node.name == "conv2d")
    x, weight, bias = conv.args[:3]
    step = x.args[1] * converted.get_buffer(weight.args[1].target)
    ratio = converted.get_parameter(bias.target) / step
    torch.testing.assert_close(ratio, ratio.round(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no calibration samples"),
        ([torch.full((2, 3, 8, 8), float("nan"))], "batch 0 holds NaN"),
        ([torch.zeros(2, 3, 8, 8)], "calibration sample is 0"),
    ],
)
def test_calibration_refuses(batches: list[Tensor], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        calibrate(prepare(Block(), ONNXRUNTIME, (images(2),)), batches)


def test_conversion_without_calibration_is_refused() -> None:
    with pytest.raises(QuantizationError, match="'x' was not calibrated"):
        convert(prepare(Block(), TENSORRT, (images(2),)))


def test_a_data_dependent_model_is_refused_with_its_line() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x
            return -x

    with pytest.raises(ExportError, match=r"Branch .*test_quantize\.py:\d+ in forward: `if x\.sum") as caught:
        prepare(Branch(), TENSORRT, (images(2),))
    assert str(caught.value).count("\n") == 0


def test_training_lowers_the_loss_and_a_checkpoint_resumes_exactly() -> None:
    def steps(model: GraphModule, n: int) -> Iterator[float]:
        y = torch.arange(16) % 4
        x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + (y - 1.5).reshape(-1, 1, 1, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(n):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    model = seeded(Block())
    prepared = train_mode(calibrated(model, ONNXRUNTIME, qat=True))
    losses = list(steps(prepared, 20))
    assert losses[-1] < 0.9 * losses[0]

    resumed = prepare(model, ONNXRUNTIME, (images(2),), qat=True)
    resumed.load_state_dict(copy.deepcopy(prepared.state_dict()))
    assert list(steps(train_mode(prepared), 3)) == list(steps(train_mode(resumed), 3))
    x = images()
    assert torch.equal(eval_mode(prepared)(x), eval_mode(resumed)(x))


@pytest.mark.parametrize("scheme", [TENSORRT, ONNXRUNTIME])
def test_the_converted_model_computes_what_the_trained_one_computed(scheme: Quantization) -> None:
    """To the last bit, int32 biases too."""
    prepared, x = train_mode(calibrated(seeded(Block()), scheme, qat=True)), images()
    optimizer = torch.optim.SGD(prepared.parameters(), 0.05)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(x).square().mean().backward()
        optimizer.step()
    eval_mode(prepared)
    with torch.no_grad():
        prepared(x)  # the weights' scales follow the weights at the next forward pass
        trained = prepared(x)
        converted = convert(prepared)(x)
    assert torch.equal(converted, trained)


def test_biases_learn_although_they_are_rounded_and_calibration_sees_them_whole() -> None:
    model, x = seeded(Block()), images()
    expected = model(x)
    prepared = prepare(model, ONNXRUNTIME, (images(2),), qat=True)
    calibrate(prepared, [10 * x])  # a scale far from the first, so that a bias rounded too early would show
    for module in prepared.modules():
        if hasattr(module, "enable_fake_quant"):
            module.enable_fake_quant(False)
    torch.testing.assert_close(prepared(x), expected, rtol=1e-4, atol=1e-5)
    train_mode(prepared)(x).square().mean().backward()
    for name in ("conv1.bias", "fc.bias", "bn2.bias"):
        gradient = prepared.get_parameter(name).grad
        assert gradient is not None and bool(gradient.any())


def test_frozen_observers_keep_their_ranges_in_training() -> None:
    def ranges(model: GraphModule) -> dict[str, Tensor]:
        # activations only: the scale of a weight has one entry a channel
        return {k: v.clone() for k, v in model.state_dict().items() if k.endswith(".scale") and v.numel() == 1}

    prepared = train_mode(calibrated(seeded(Block()), ONNXRUNTIME, qat=True))
    start = ranges(prepared)
    prepared(10 * images())
    moved = ranges(prepared)
    assert any(not torch.equal(start[name], moved[name]) for name in moved)
    train_mode(freeze_observers(prepared))(100 * images())
    assert all(torch.equal(moved[name], value) for name, value in ranges(prepared).items())


def test_dropout_and_a_free_batch_norm_follow_the_mode() -> None:
    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.conv, self.drop = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.conv(self.bn(x).relu())).mean((2, 3))

    prepared = calibrated(Free(), TENSORRT, qat=True)
    x = images() + 3
    assert torch.equal(prepared(x), prepared(x))
    mean = prepared.get_buffer("bn.running_mean").clone()
    train_mode(prepared)
    assert not torch.equal(prepared(x), prepared(x))
    assert not torch.equal(prepared.get_buffer("bn.running_mean"), mean)
    mean = prepared.get_buffer("bn.running_mean").clone()
    freeze_bn(prepared)(x)
    assert torch.equal(prepared.get_buffer("bn.running_mean"), mean)
