"""The exported file against the torch model, and what onnxruntime makes of it."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.errors import EdgekdError, ExportError
from edgekd.export.to_half import to_bf16, to_fp16
from edgekd.export.to_onnx import Preprocess, to_onnx, write
from edgekd.export.translations import translations_read_once
from edgekd.inputs.normalise import Normalise
from edgekd.measure.estimate.kernels import read_kernels
from edgekd.models.resnet import ResNet, resnet8
from edgekd.quantize import calibrate, convert, eval_mode, prepare, sites, train_mode
from edgekd.runtime.check import check, open_session
from edgekd.runtime.runners import OnnxRunner
from edgekd.target import Quantization
from tests.builders.optimised import optimised
from tests.builders.schemes import INT8, JETSON, TENSORRT, UINT8

PREPROCESS = Preprocess((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """1797 handwritten digits as uint8 `[n, 8, 8, 3]`."""
    grey = (load_digits().images * 255 / 16).astype(np.uint8)
    return torch.from_numpy(np.stack([grey, grey // 2, 255 - grey], axis=3))


def normalised(images: Tensor) -> Tensor:
    """Independent of the exporter: numpy, channel by channel."""
    planes = [(images[..., c].numpy() / np.float32(255) - PREPROCESS.mean[c]) / PREPROCESS.std[c] for c in range(3)]
    return torch.from_numpy(np.stack(planes, axis=1).astype(np.float32))


@pytest.fixture(scope="module")
def model(digits: Tensor) -> ResNet:
    """A resnet8 of width 8, trained for some steps."""
    torch.manual_seed(0)
    net, labels = resnet8(width=8), torch.from_numpy(load_digits().target)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for i in range(0, 1280, 64):
        loss = nn.functional.cross_entropy(net(normalised(digits[i : i + 64])), labels[i : i + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def quantized(model: nn.Module, scheme: Quantization, x: Tensor) -> GraphModule:
    prepared = prepare(model, scheme, (x[:2],))
    calibrate(prepared, [x])
    return convert(prepared)


@pytest.fixture(scope="module")
def converted(model: ResNet, digits: Tensor) -> dict[str, GraphModule]:
    """The model quantized for each scheme."""
    schemes = {"tensorrt": TENSORRT, "uint8": UINT8, "int8": INT8}
    return {name: quantized(model, scheme, normalised(digits[:256])) for name, scheme in schemes.items()}


@pytest.fixture(scope="module")
def written(
    converted: dict[str, GraphModule], digits: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Its exports, with preprocessing."""
    folder = tmp_path_factory.mktemp("export")
    for name, graph in converted.items():
        to_onnx(graph, folder / name, normalised(digits[:2]), opset=20, preprocess=PREPROCESS)
    return {name: folder / name for name in converted}


def test_a_float_model_with_preprocessing_and_probabilities_agrees(
    model: ResNet, digits: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    to_onnx(model, path, normalised(digits[:2]), opset=20, preprocess=PREPROCESS, output="probabilities")
    expected = lambda x: model(normalised(x)).softmax(1)  # noqa: E731
    result = check(path, expected, [digits[:1], digits[1:300]])
    assert result.samples == 300 and result.same_top1 == 1.0 and result.max_difference < 1e-5
    graph = onnx.load(path).graph
    assert [(v.name, v.type.tensor_type.elem_type) for v in graph.input] == [("input", onnx.TensorProto.UINT8)]
    dims = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 8, 8, 3] and graph.output[0].name == "probabilities"


@pytest.mark.parametrize("scheme", ["tensorrt", "uint8", "int8"])
def test_a_quantized_model_ships_the_sites_that_it_was_made_with(
    converted: dict[str, GraphModule], written: dict[str, Path], digits: Tensor, scheme: str
) -> None:
    graph, path = converted[scheme], written[scheme]
    assert sites(path) == sites(graph)
    model = onnx.load(path)
    assert model.opset_import[0].version == 20 and model.ir_version <= 10
    activations = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert activations == sum(not site.tensor.endswith("weight") for site in sites(graph))
    result = check(path, lambda x: graph(normalised(x)), [digits[:500]])
    assert result.same_top1 >= 0.995


def test_the_shipped_model_answers_as_the_trained_one_on_999_of_1000_images(
    model: ResNet, digits: Tensor, tmp_path: Path
) -> None:
    """Of quantization-aware training, biases of int32 included; on all 1797 digits."""
    labels, x = torch.from_numpy(load_digits().target), normalised(digits)
    prepared = prepare(model, UINT8, (x[:2],), qat=True)
    calibrate(prepared, [x[:256]])
    train_mode(prepared)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.01, momentum=0.9)
    for i in range(0, 1280, 64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(prepared(x[i : i + 64]), labels[i : i + 64]).backward()
        optimizer.step()
    eval_mode(prepared)
    with torch.no_grad():
        prepared(x[:2])  # the weights' scales follow the weights at the next forward pass
        trained = prepared(x)
    to_onnx(convert(prepared), tmp_path / "a.onnx", x[:2], opset=20, preprocess=PREPROCESS)
    deployed = torch.from_numpy(OnnxRunner(tmp_path / "a.onnx").run({"input": digits.numpy()}))
    # most are the very same numbers; with biases that were float in the training 65 % were
    assert float(((deployed - trained).abs() < 1e-4).float().mean()) >= 0.95
    assert float((deployed.argmax(1) == trained.argmax(1)).float().mean()) >= 0.999


def test_an_opset_before_the_exporters_keeps_sites_and_outputs(
    converted: dict[str, GraphModule], digits: Tensor, tmp_path: Path
) -> None:
    path, graph = tmp_path / "model.onnx", converted["tensorrt"]
    to_onnx(graph, path, normalised(digits[:2]), opset=17)
    assert onnx.load(path).opset_import[0].version == 17
    assert sites(path) == sites(graph)
    check(path, graph, [normalised(digits[:200])])


def test_tensorrt_gets_constant_zero_points_and_nothing_between_convolution_and_relu(written: dict[str, Path]) -> None:
    graph = onnx.load(written["tensorrt"]).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type.endswith("izeLinear"):
            assert not constants[node.input[2]].any()
        if node.op_type == "Relu":
            assert producers[node.input[0]].op_type in ("Conv", "Add")
        if node.op_type in ("Conv", "Gemm"):
            assert [producers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        if node.op_type == "Add" and not constants.keys() & set(node.input):  # not the preprocessing's
            kinds = sorted(producers[name].op_type for name in node.input)
            assert kinds == ["Conv", "DequantizeLinear"]


@pytest.mark.parametrize(("scheme", "config"), [("uint8", {}), ("int8", {"qdqisint8allowed": "1"})])
def test_onnxruntime_runs_every_layer_in_integers(
    written: dict[str, Path], scheme: str, config: dict[str, str]
) -> None:
    """For int8 activations `qdqisint8allowed` is what onnxruntime has on arm64; on x86 it prefers uint8 kernels."""
    operators = optimised(written[scheme], **config)
    integer = {name: operators[name] for name in ("QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm")}
    assert integer == {"QLinearConv": 9, "QLinearAdd": 3, "QLinearGlobalAveragePool": 1, "QGemm": 1}
    normalise = "MatMul" if scheme == "uint8" else "Mul"
    assert set(operators) - set(integer) == {"Transpose", "Cast", normalise, "Add", "QuantizeLinear", "Reshape"}


def test_an_images_channels_are_padded_without_a_changed_bit(digits: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = resnet8(width=16).eval(), normalised(digits[:256])
    outputs = {}
    for channels in (1, 4):
        to_onnx(
            quantized(model, UINT8.model_copy(update={"pad_channels_to": channels}), x),
            tmp_path / f"{channels}",
            x[:2],
            opset=20,
        )
        outputs[channels] = OnnxRunner(tmp_path / f"{channels}").run({"input": x.numpy()})
    assert np.array_equal(outputs[1], outputs[4])
    operators = optimised(tmp_path / "4")
    assert operators["QLinearConv"] == 9 and "Conv" not in operators
    plain, padded = (onnx.load(tmp_path / f"{channels}") for channels in (1, 4))
    assert sites(plain) == sites(padded)
    widths = [[t.dims[1] for t in of.graph.initializer if t.name == "stem.weight_quantized"] for of in (plain, padded)]
    assert widths == [[3], [4]]
    assert Counter(n.op_type for n in padded.graph.node) - Counter(n.op_type for n in plain.graph.node) == {"Pad": 1}


@pytest.mark.parametrize(("filters", "channels"), [(16, 4), (8, 3)])
def test_an_image_is_normalised_with_its_channels_last_without_a_changed_bit(
    filters: int, channels: int, tmp_path: Path
) -> None:
    """The matrix gives the channel of zeros too, where a convolution has enough filters to be padded."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, filters, 3), nn.ReLU(), nn.Conv2d(filters, 4, 1), nn.Flatten()).eval()
    x, before = torch.randint(0, 256, (64, 12, 10, 3), dtype=torch.uint8), Normalise((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    outputs, files = {}, {}
    for padded in (1, 4):
        path = tmp_path / f"{padded}"
        scheme = UINT8.model_copy(update={"pad_channels_to": padded, "pad_filters_to": 1})
        to_onnx(quantized(model, scheme, before(x)), path, x[:2], opset=20, preprocess=before)
        outputs[padded], files[padded] = OnnxRunner(path).run({"input": x.numpy()}), onnx.load(path)
    assert np.array_equal(outputs[1], outputs[4]) and outputs[1].std() > 0
    assert sites(files[1]) == sites(files[4])
    operators = [[node.op_type for node in file.graph.node][:4] for file in files.values()]
    assert operators == [["Cast", "Transpose", "Mul", "Add"], ["Cast", "MatMul", "Add", "Transpose"]]
    shapes = {tensor.name: [*tensor.dims] for tensor in files[4].graph.initializer}
    assert shapes["scale"] == [3, channels] and shapes["shift"] == [10, channels]
    assert not {"Pad", "Mul"} & {node.op_type for node in files[4].graph.node}


@pytest.mark.parametrize(("filters", "stride"), [(16, 4), (8, 1)])
def test_patches_that_do_not_overlap_and_few_filters_are_not_padded(filters: int, stride: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    patches, x = nn.Sequential(nn.Conv2d(3, filters, 4, stride), nn.ReLU()), torch.randn(8, 3, 16, 16)
    scheme = UINT8.model_copy(update={"pad_filters_to": 1})
    to_onnx(quantized(patches, scheme, x), tmp_path / "model.onnx", x[:2], opset=20)
    assert "Pad" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}


def test_an_image_whose_convolution_shares_its_weight_is_not_padded(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x)) + torch.relu(self.conv(x * 0.5))

    torch.manual_seed(0)
    net, x = Twice().eval(), torch.randn(8, 3, 8, 8)
    shipped = quantized(net, UINT8, x)
    to_onnx(shipped, tmp_path / "model.onnx", x[:2], opset=20)
    assert "Pad" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert np.abs(OnnxRunner(tmp_path / "model.onnx").run({"input": x.numpy()}) - net(x).detach().numpy()).max() < 0.1


def test_a_scale_widened_for_one_bias_serves_the_other_layers_of_the_weight_too(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x)) + torch.relu(self.conv(x * 1e-3))

    torch.manual_seed(0)
    net, x = Twice().eval(), torch.randn(8, 3, 8, 8)
    with torch.no_grad():  # beside the small input this channel's bias does not fit 32 bits at its weight's own scale
        net.conv.weight[0] *= 1e-4
        net.conv.bias[0] = 0.5
    to_onnx(quantized(net, UINT8, x), tmp_path / "model.onnx", x[:2], opset=20)
    assert np.abs(OnnxRunner(tmp_path / "model.onnx").run({"input": x.numpy()}) - net(x).detach().numpy()).max() < 0.1


@pytest.mark.parametrize("scheme", [UINT8, TENSORRT], ids=["uint8", "tensorrt"])
def test_a_layer_of_very_many_channels_is_quantized(scheme: Quantization, tmp_path: Path) -> None:
    """Of 8193 zero-points on torch's exporter leaves a cast of them in the graph."""
    torch.manual_seed(0)
    layers, x = nn.Sequential(nn.Linear(16, 9000), nn.ReLU(), nn.Linear(9000, 16)).eval(), torch.randn(8, 16)
    converted = quantized(layers, scheme, x)
    to_onnx(converted, tmp_path / "model.onnx", x[:2], opset=20)
    assert "Cast" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    check(tmp_path / "model.onnx", converted, [x], min_agreement=1.0, tolerance=0.02)


class Plain(nn.Module):
    """One of each operator that is written without being decomposed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x.float()))
        pooled = nn.functional.max_pool2d(x, 2)
        means = nn.functional.avg_pool2d(nn.functional.hardtanh(x, 0.0, 6.0), 3, 2, 1)
        x = torch.cat([pooled * torch.sigmoid(pooled) - 0.5, (means + pooled) / 3.0 - means], 1)
        x = nn.functional.max_pool2d(x, 3, 2, 1) - x.mean((2, 3), keepdim=True)
        x = x.permute(0, 2, 3, 1).reshape(-1, 16, 16).view(-1, 16, 16)
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def test_operators_that_are_not_decomposed_are_written_as_if_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net, x = Plain().eval(), torch.randn(4, 3, 16, 16)
    decompose, runs = torch.export.ExportedProgram.run_decompositions, []
    monkeypatch.setattr(
        torch.export.ExportedProgram, "run_decompositions", lambda *given: runs.append(1) or decompose(*given)
    )
    to_onnx(net, tmp_path / "as_they_are", x, opset=20, output="probabilities")
    assert not runs
    # By its name: the package has a function of that name, which hides it.
    monkeypatch.setattr(sys.modules[to_onnx.__module__], "WRITTEN_AS_THEY_ARE", frozenset())
    to_onnx(net, tmp_path / "decomposed", x, opset=20, output="probabilities")
    assert runs
    first, second = (onnx.load(tmp_path / name).graph.node for name in ("as_they_are", "decomposed"))
    assert [node.op_type for node in first] == [node.op_type for node in second]
    expected = net(x).softmax(1).detach().numpy()
    for name in ("as_they_are", "decomposed"):
        np.testing.assert_allclose(OnnxRunner(tmp_path / name).run({"input": x.numpy()}), expected, atol=1e-6)


def test_the_same_model_gives_the_same_bytes_without_paths(
    model: ResNet, written: dict[str, Path], digits: Tensor, tmp_path: Path
) -> None:
    again = quantized(model, UINT8, normalised(digits[:256]))
    to_onnx(again, tmp_path / "again", normalised(digits[:3]), opset=20, preprocess=PREPROCESS)
    first = written["uint8"].read_bytes()
    assert first == (tmp_path / "again").read_bytes()
    assert b"site-packages" not in first and b".py" not in first
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_half_precision_keeps_the_interface_and_the_classes(model: ResNet, digits: Tensor, tmp_path: Path) -> None:
    source, half = tmp_path / "fp32.onnx", tmp_path / "fp16.onnx"
    to_onnx(model, source, normalised(digits[:2]), opset=20, preprocess=PREPROCESS)
    to_fp16(source, half)
    result = check(half, lambda x: model(normalised(x)), [digits[:400]], min_agreement=0.99)
    assert result.max_difference > 0
    graph = onnx.load(half).graph
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert (
        sum(tensor.data_type == onnx.TensorProto.FLOAT16 and len(tensor.dims) == 4 for tensor in graph.initializer) == 9
    )


def test_half_precision_keeps_integer_weights(
    converted: dict[str, GraphModule], written: dict[str, Path], digits: Tensor, tmp_path: Path
) -> None:
    to_fp16(written["tensorrt"], tmp_path / "half.onnx")
    graph = converted["tensorrt"]
    check(tmp_path / "half.onnx", lambda x: graph(normalised(x)), [digits[:400]], min_agreement=0.97)
    stored = [t.data_type for t in onnx.load(tmp_path / "half.onnx").graph.initializer if len(t.dims) == 4]
    assert stored == [onnx.TensorProto.INT8] * 9


def test_half_precision_keeps_what_it_cannot_hold_and_says_why(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(16, 4)
    with torch.no_grad():
        layers[2].weight[0] = 800.0  # sums of some hundreds
        layers[4].weight[:, 0] *= 1e-3
        layers[4].bias[0] = 1e5
        hidden = layers[:4](x).abs().max()
    assert 512 < hidden < 65504
    to_onnx(layers, tmp_path / "a.onnx", x[:2], opset=20)
    assert [found.node for found in to_fp16(tmp_path / "a.onnx", tmp_path / "b.onnx")] == ["Gemm_2"]
    kept = to_fp16(tmp_path / "a.onnx", tmp_path / "b.onnx", x.numpy())
    assert [(found.node, found.operator) for found in kept] == [
        ("Gemm_1", "Gemm"),
        ("Relu_1", "Relu"),
        ("Gemm_2", "Gemm"),
    ]
    assert f"reaches {float(hidden):.4g}, " in kept[1].why and "512" in kept[1].why
    assert "holds 100000, " in kept[2].why and "65504" in kept[2].why
    types = {t.name: t.data_type for t in onnx.load(tmp_path / "b.onnx").graph.initializer}
    assert types == {
        "0.weight_fp16": onnx.TensorProto.FLOAT16, "0.bias_fp16": onnx.TensorProto.FLOAT16,
        "2.weight": onnx.TensorProto.FLOAT, "2.bias": onnx.TensorProto.FLOAT,
        "4.weight": onnx.TensorProto.FLOAT, "4.bias": onnx.TensorProto.FLOAT,
    }  # fmt: skip
    check(tmp_path / "b.onnx", layers, [x], min_agreement=1.0, tolerance=1e-3)


def test_half_precision_widens_the_scale_of_a_channel_that_vanishes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    with torch.no_grad():
        layers[0].weight[1] *= 1e-3
    x = torch.randn(16, 3, 8, 8)
    converted = quantized(layers, TENSORRT, x)
    to_onnx(converted, tmp_path / "a.onnx", x[:2], opset=20)
    assert to_fp16(tmp_path / "a.onnx", tmp_path / "b.onnx") == []
    graph = onnx.load(tmp_path / "b.onnx").graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert stored["0.weight_scale_fp16"].min() == np.float16(2.0**-14)
    weight = stored["0.weight_quantized"] * stored["0.weight_scale_fp16"].astype(np.float32).reshape(-1, 1, 1, 1)
    assert np.abs(weight[1] - layers[0].weight[1].detach().numpy()).max() <= 2.0**-15 + 1e-7
    check(tmp_path / "b.onnx", converted, [x], min_agreement=1.0, tolerance=0.02)


def test_bf16_keeps_the_interface_and_leaves_no_operator_behind(model: ResNet, digits: Tensor, tmp_path: Path) -> None:
    source, half = tmp_path / "fp32.onnx", tmp_path / "bf16.onnx"
    to_onnx(model, source, normalised(digits[:2]), opset=22, preprocess=PREPROCESS, output="probabilities")
    to_bf16(source, half)
    onnx.checker.check_model(half, full_check=True)
    result = check(half, lambda x: model(normalised(x)).softmax(1), [digits[:400]], min_agreement=0.98)
    assert result.max_difference > 0
    graph = onnx.shape_inference.infer_shapes(onnx.load(half)).graph
    before = onnx.load(source).graph
    assert (graph.input, graph.output) == (before.input, before.output)
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    made = {(node.op_type, types[node.output[0]]) for node in graph.node}
    in_bf16, in_fp32 = (
        {op for op, type_ in made if type_ == wanted} for wanted in (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT)
    )
    assert {"Conv", "Relu", "Add", "Gemm"} <= in_bf16
    assert in_fp32 <= {"Cast", "Mul", "Add", "Transpose", "Softmax"}  # preprocessing and what is given


def test_bf16_weights_stand_beside_the_model_too(model: ResNet, digits: Tensor, tmp_path: Path) -> None:
    x = normalised(digits[:50])
    to_onnx(model, tmp_path / "a.onnx", x[:2], opset=22)
    to_bf16(tmp_path / "a.onnx", tmp_path / "b.onnx")
    folder = tmp_path / "external"
    folder.mkdir()
    write(onnx.load(tmp_path / "b.onnx"), folder / "b.onnx", limit=10_000)
    assert (folder / "b.onnx.data").stat().st_size > 20_000
    check(folder / "b.onnx", model, [x], min_agreement=0.9)
    same = (OnnxRunner(path / "b.onnx").run({"input": x.numpy()}) for path in (folder, tmp_path))
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("half", [to_fp16, to_bf16])
def test_half_precision_takes_no_other_tensor_s_name_and_gives_outputs_that_are_read_on(
    half: Callable[..., object], tmp_path: Path
) -> None:
    suffix = half.__name__.removeprefix("to_")
    text = (
        '<ir_version: 10, opset_import: ["" : 22]> g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z) '
        f"<float[2] w = {{2, 2}}, float[2] w_{suffix} = {{5, 5}}> {{ y = Mul(x, w) z = Mul(y, w_{suffix}) }}"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "a.onnx")
    half(tmp_path / "a.onnx", tmp_path / "b.onnx")
    y, z = OnnxRunner(tmp_path / "b.onnx").run_all({"x": np.ones((1, 2), np.float32)})
    assert y.tolist() == [[2, 2]] and z.tolist() == [[10, 10]]


def test_bf16_is_refused_where_onnx_or_edgekd_has_none(written: dict[str, Path], model: ResNet, tmp_path: Path) -> None:
    to_onnx(model, tmp_path / "a.onnx", torch.zeros(2, 3, 8, 8), opset=20)
    with pytest.raises(ExportError, match=r"bf16 .*opset 22, .* 20"):
        to_bf16(tmp_path / "a.onnx", tmp_path / "b.onnx")
    quantized_model = onnx.load(written["tensorrt"])
    quantized_model.opset_import[0].version = 22
    onnx.save(quantized_model, tmp_path / "int8.onnx")
    with pytest.raises(ExportError, match=r"int8\.onnx .*use to_fp16"):
        to_bf16(tmp_path / "int8.onnx", tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_a_file_that_is_no_valid_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ExportError, match=r"text\.onnx .*export it anew"):
        to_fp16(tmp_path / "text.onnx", tmp_path / "b.onnx")
    node = onnx.helper.make_node("Relu", ["missing"], ["y"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [y])), tmp_path / "dangling.onnx")
    with pytest.raises(ExportError, match=r"dangling\.onnx .*'missing'.*export it anew") as caught:
        check(tmp_path / "dangling.onnx", nn.Identity(), [torch.zeros(1)])
    assert "\n" not in str(caught.value)


def test_a_fixed_batch_leaves_no_dimension_open(
    converted: dict[str, GraphModule], written: dict[str, Path], digits: Tensor, tmp_path: Path
) -> None:
    graph = converted["tensorrt"]
    to_onnx(graph, tmp_path / "one.onnx", normalised(digits[:2]), opset=20, preprocess=PREPROCESS, batch=1)
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "one.onnx"), strict_mode=True, data_prop=True)
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    assert all(dim.HasField("dim_value") for value in values for dim in value.type.tensor_type.shape.dim)
    assert "Shape" not in {node.op_type for node in model.graph.node}
    assert sites(tmp_path / "one.onnx") == sites(graph)
    images = digits[:20].numpy()
    np.testing.assert_allclose(
        OnnxRunner(tmp_path / "one.onnx").run({"input": images}),
        OnnxRunner(written["tensorrt"]).run({"input": images}),
        atol=1e-5,
    )
    to_fp16(tmp_path / "one.onnx", tmp_path / "half.onnx", images)
    check(tmp_path / "half.onnx", lambda x: graph(normalised(x)), [digits[:20]], min_agreement=0.9)


def test_several_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.depth = nn.Conv2d(3, 4, 1), nn.Conv2d(1, 4, 1)

        def forward(self, image: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
            x = self.image(image) + self.depth(depth)
            return x.mean((2, 3)), x.relu()

    torch.manual_seed(0)
    model, inputs = Pair().eval(), (torch.randn(5, 3, 4, 4), torch.randn(5, 1, 4, 4))
    to_onnx(model, tmp_path / "a.onnx", inputs, opset=20)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    assert [(value.name, value.shape[0]) for value in session.get_inputs()] == [("image", "batch"), ("depth", "batch")]
    assert [value.name for value in session.get_outputs()] == ["output_0", "output_1"]
    feeds = {"image": inputs[0].numpy(), "depth": inputs[1].numpy()}
    for got, expected in zip(session.run(None, feeds), model(*inputs), strict=True):
        np.testing.assert_allclose(got, expected.detach().numpy(), atol=1e-5)


def test_weights_beyond_the_limit_stand_beside_the_model(model: ResNet, digits: Tensor, tmp_path: Path) -> None:
    to_onnx(model, tmp_path / "a.onnx", normalised(digits[:2]), opset=20)
    folder = tmp_path / "external"
    folder.mkdir()
    write(onnx.load(tmp_path / "a.onnx"), folder / "model.onnx", limit=10_000)
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (folder / "model.onnx").stat().st_size < 20_000 < (folder / "model.onnx.data").stat().st_size
    assert (folder / "model.onnx").stat().st_mode == (folder / "model.onnx.data").stat().st_mode
    check(folder / "model.onnx", model, [normalised(digits[:50])])
    to_fp16(folder / "model.onnx", tmp_path / "half.onnx")
    check(tmp_path / "half.onnx", model, [normalised(digits[:50])])
    (folder / "model.onnx.data").unlink()
    for read in (read_kernels, lambda path: check(path, model, [normalised(digits[:50])])):
        with pytest.raises(EdgekdError, match=r"model\.onnx.*model\.onnx\.data"):
            read(folder / "model.onnx")


@pytest.mark.parametrize("opset", [12, 24])
def test_an_opset_that_edgekd_does_not_write_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"opset {opset} .*13 to 23"):
        to_onnx(nn.Flatten(), tmp_path / "a.onnx", torch.zeros(2, 3), opset=opset)


@pytest.mark.parametrize("opset", [17, 18, 19, 21, 23])
def test_every_opset_gives_the_same_answers(
    converted: dict[str, GraphModule], digits: Tensor, opset: int, tmp_path: Path
) -> None:
    to_onnx(converted["uint8"], tmp_path / "a.onnx", normalised(digits[:2]), opset=opset, preprocess=PREPROCESS)
    exported = onnx.load(tmp_path / "a.onnx")
    assert [entry.version for entry in exported.opset_import] == [opset] and exported.ir_version <= 10
    assert sites(exported) == sites(converted["uint8"])
    found = check(tmp_path / "a.onnx", lambda x: converted["uint8"](normalised(x)), [digits[:100]])
    assert found.same_top1 == 1.0


def test_check_reports_figures_where_the_models_differ(model: ResNet, digits: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    to_onnx(model, path, normalised(digits[:2]), opset=20)
    with pytest.raises(ExportError, match=r" 0\.00% of 10 samples.*99\.50%"):
        check(path, lambda x: model(x).roll(1, dims=1), [normalised(digits[:10])])
    with pytest.raises(ExportError, match=r"no samples .*model\.onnx"):
        check(path, model, [])


def test_transformer_products_and_additions_are_exported(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.norm = (
                nn.Linear(16, 16),
                nn.Linear(16, 16),
                nn.Linear(16, 16),
                nn.LayerNorm(16),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2).transpose(1, 2)
            y = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 4, -1) @ self.v(x)
            return self.norm(x + y).mean(1)

    torch.manual_seed(0)
    attention, x = Attention().eval(), torch.randn(8, 16, 4, 4)
    for scheme in (TENSORRT, UINT8):
        converted = quantized(attention, scheme, x)
        to_onnx(converted, tmp_path / "a.onnx", x[:2], opset=20)
        assert sites(tmp_path / "a.onnx") == sites(converted)
        check(tmp_path / "a.onnx", converted, [x], min_agreement=0.85)


def test_a_dead_channel_with_a_bias_fits_int32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    nn.init.zeros_(layers[0].weight[0])
    nn.init.constant_(layers[0].bias, 3e3)
    x = torch.rand(16, 3, 4, 4) * 1e-3
    converted = quantized(layers, UINT8, x)
    to_onnx(converted, tmp_path / "a.onnx", x[:2], opset=20)
    result = check(tmp_path / "a.onnx", converted, [x], min_agreement=0, tolerance=0.02)
    assert result.max_output > 10


def test_a_graph_that_still_has_observers_is_refused(tmp_path: Path) -> None:
    prepared = prepare(nn.Conv2d(3, 4, 1), TENSORRT, (torch.randn(2, 3, 4, 4),))
    with pytest.raises(ExportError, match=r"call edgekd\.quantize\.convert"):
        to_onnx(prepared, tmp_path / "a.onnx", torch.randn(2, 3, 4, 4), opset=20)


def test_code_that_calls_view_is_exported_behind_its_preprocessing(digits: Tensor, tmp_path: Path) -> None:
    """Camera bytes have their channels last in memory, where `view` cannot make rows of an image."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * 8 * 8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.view(x.shape[0], -1))

    model = Rows().eval()
    to_onnx(model, tmp_path / "model.onnx", torch.zeros(2, 3, 8, 8), opset=18, preprocess=PREPROCESS)
    check(tmp_path / "model.onnx", lambda x: [model(normalised(x))], [digits[:64]])


def test_a_preprocess_for_other_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"preprocess .*3 means .*give 1 of each"):
        to_onnx(nn.Flatten(), tmp_path / "a.onnx", torch.zeros(2, 1, 4, 4), opset=20, preprocess=PREPROCESS)


def test_a_data_dependent_model_is_refused_with_its_line(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.mean() > 0 else -x

    with pytest.raises(ExportError, match=r"Branch .*test_to_onnx\.py:\d+ in forward: `return x if"):
        to_onnx(Branch(), tmp_path / "a.onnx", torch.zeros(2, 3), opset=20)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_onnx_lacks_is_refused_by_name(tmp_path: Path) -> None:
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(ExportError, match=r"operator prims\.bessel_j0") as caught:
        to_onnx(Bessel(), tmp_path / "a.onnx", torch.zeros(2, 3), opset=20)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("largest", "kept_operators"), [(2_000.0, []), (200_000.0, ["Conv"])])
def test_an_integer_layer_with_large_outputs_keeps_its_dequantizers_beside_it(
    tmp_path: Path, largest: float, kept_operators: list[str]
) -> None:
    """Its sums are integers: only what half precision cannot hold at all makes it give float32."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Sigmoid()).eval(), torch.randn(8, 16, 4, 4)
    with torch.no_grad():
        model[0].weight.mul_(largest / float(model[0](x).abs().max()))
        model[0].bias.zero_()
    prepared = prepare(model, JETSON, (x[:2],))
    calibrate(prepared, [x])
    to_onnx(convert(prepared), tmp_path / "a.onnx", x[:2], opset=20)
    kept = to_fp16(tmp_path / "a.onnx", tmp_path / "b.onnx", x.numpy())
    assert [found.operator for found in kept if found.operator == "Conv"] == kept_operators
    graph = onnx.load(tmp_path / "b.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    (conv,) = [node for node in graph.node if node.op_type == "Conv"]
    assert [makers[name] for name in conv.input[:2]] == ["DequantizeLinear", "DequantizeLinear"]
    assert np.isfinite(open_session(tmp_path / "b.onnx").run(None, {"input": x.numpy()})[0]).all()


def test_operators_that_onnx_has_in_float32_alone_stay_in_it(tmp_path: Path) -> None:
    """ONNX's Celu is defined for float32; the rest is half precision."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.CELU(), nn.Conv2d(4, 4, 3)).eval(), torch.randn(2, 3, 8, 8)
    to_onnx(model, tmp_path / "model.onnx", x, opset=22)
    for halve, name in ((to_fp16, "fp16"), (to_bf16, "bf16")):
        kept = halve(tmp_path / "model.onnx", tmp_path / f"{name}.onnx")
        assert [(found.operator, found.why) for found in kept] == [("Celu", f"opset 22 of ONNX has no Celu in {name}")]
        onnx.checker.check_model(str(tmp_path / f"{name}.onnx"), full_check=True)


def test_attention_of_three_dimensions_is_one_head(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, 2 * x, x + 1).sum(1)

    x = torch.randn(4, 6, 8)
    to_onnx(Attention(), tmp_path / "model.onnx", x, opset=20)
    check(tmp_path / "model.onnx", Attention(), [x], min_agreement=0)


def test_a_weight_that_is_computed_ships_as_its_value(tmp_path: Path) -> None:
    """ONNX has no matrix exponential, of which an orthogonal weight is made; the model itself keeps it."""
    model = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.ReLU()).eval()
    to_onnx(model, tmp_path / "model.onnx", torch.randn(2, 4), opset=20)
    assert [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node] == ["Gemm", "Relu"]
    check(tmp_path / "model.onnx", model, [torch.randn(8, 4)], min_agreement=0)
    assert nn.utils.parametrize.is_parametrized(model[0])


def test_the_exporters_table_is_made_once_for_an_opset_and_gives_the_same_bytes(tmp_path: Path) -> None:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish()), torch.randn(2, 3, 8, 8)
    with translations_read_once():
        table = ONNXRegistry.from_torchlib(opset_version=20)
    for name in ("first", "second"):
        to_onnx(model, tmp_path / f"{name}.onnx", x, opset=20)
        to_onnx(model, tmp_path / "other.onnx", x, opset=18)  # another table
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    with translations_read_once():
        assert ONNXRegistry.from_torchlib(opset_version=20) is table
    assert isinstance(ONNXRegistry.__dict__["from_torchlib"], classmethod)


def test_an_operator_that_is_registered_later_is_among_the_translations() -> None:
    """As those of quantized values are, which a build registers after its first export."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with translations_read_once():
        table = ONNXRegistry.from_torchlib(opset_version=20)
    library = torch.library.Library("edgekd_test", "FRAGMENT")
    library.define("later(Tensor x) -> Tensor")
    with translations_read_once():
        assert ONNXRegistry.from_torchlib(opset_version=20) is not table


def test_the_batch_size_is_read_behind_the_cast_of_a_raw_input(tmp_path: Path) -> None:
    """TensorRT reads uint8 in a Cast alone, and a class token asks for the batch size."""

    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, 4))

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2)[:, :, :4]
            return torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1).mean((1,))

    path, preprocess = tmp_path / "model.onnx", Preprocess((0.5,) * 3, (0.5,) * 3)
    to_onnx(Token().eval(), path, torch.randn(2, 3, 4, 4), opset=19, preprocess=preprocess)
    graph = onnx.load(path).graph
    assert {node.op_type for node in graph.node if "input" in node.input} == {"Cast"}
    assert any(node.op_type == "Shape" for node in graph.node)
    (found,) = open_session(path).run(None, {"input": np.zeros((5, 4, 4, 3), np.uint8)})
    assert found.shape == (5, 4)


def test_layers_that_are_copies_of_each_other_keep_their_own_sites(tmp_path: Path) -> None:
    """As `copy.deepcopy` makes the layers of an encoder: the exporter merges equal weights with their dequantizers."""
    torch.manual_seed(0)
    first = nn.Conv2d(8, 8, 1)
    model = nn.Sequential(first, nn.ReLU(), copy.deepcopy(first), nn.ReLU()).eval()
    prepared = prepare(model, TENSORRT, (x := torch.randn(4, 8, 5, 5),))
    calibrate(prepared, [x])
    converted = convert(prepared)
    to_onnx(converted, tmp_path / "model.onnx", x, opset=20)
    assert sites(tmp_path / "model.onnx") == sites(converted)


class Dense(nn.Module):
    """A class for each pixel, `[batch, classes, h, w]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    path, network = tmp_path_factory.mktemp("dense") / "dense.onnx", Dense().eval()
    to_onnx(network, path, torch.zeros(2, 1, 4, 4), opset=20)
    return network, path


def test_a_check_counts_the_answers_of_every_pixel(dense: tuple[nn.Module, Path]) -> None:
    """2 samples of 16 pixels are 32 answers, and no share of them is above 1."""
    network, path = dense
    found = check(path, network, [torch.randn(2, 1, 4, 4)], class_axis=1)
    assert (found.samples, found.answers, found.same_top1) == (2, 32, 1.0)
    assert "100.00% of 32 answers of 2 samples" in str(found)


def test_a_check_finds_the_pixels_of_another_class(dense: tuple[nn.Module, Path]) -> None:
    network, path = dense
    x = torch.randn(2, 1, 4, 4)

    def turned(x: Tensor) -> Tensor:
        """The first pixel's classes in another order."""
        z = network(x).clone()
        z[:, :, 0, 0] = z[:, :, 0, 0].roll(1, 1)
        return z

    with pytest.raises(ExportError, match=r"93\.75% of 32 answers"):
        check(path, turned, [x], class_axis=1, tolerance=float("inf"))


@pytest.mark.parametrize(("axis", "what"), [(None, "give class_axis"), (4, "class_axis = 4"), (0, "class_axis = 0")])
def test_a_check_asks_for_the_axis_of_the_classes(dense: tuple[nn.Module, Path], axis: int | None, what: str) -> None:
    network, path = dense
    with pytest.raises(ExportError, match=what):
        check(path, network, [torch.randn(2, 1, 4, 4)], class_axis=axis)
