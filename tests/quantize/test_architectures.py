"""Networks as people have them: sites, onnxruntime's integer operators, and the same numbers as the torch graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.export.lint import lint
from edgekd.export.to_half import to_fp16
from edgekd.export.to_onnx import to_onnx
from edgekd.models import BUILT_IN
from edgekd.models.ghostnet import Bottleneck
from edgekd.models.ghostnet import Row as GhostRow
from edgekd.models.mobilenetv3 import Block as MobileNetV3Block
from edgekd.models.mobilenetv3 import Row
from edgekd.models.mobileone import MobileOneBlock
from edgekd.models.repvgg import RepVGGBlock
from edgekd.quantize import calibrate, convert, prepare, sites
from edgekd.quantize.operators import CONVOLUTIONS
from edgekd.quantize.qat import quantizer_of
from edgekd.runtime.check import check, open_session
from edgekd.target import Quantization, load_target
from tests.builders.networks import MobileBlock, seeded
from tests.builders.optimised import optimised
from tests.builders.schemes import JETSON, TENSORRT, UINT8

# timm's name -> arguments; few blocks where the architecture repeats one
ARCHITECTURES: dict[str, dict[str, object]] = {
    "resnet18": {"zero_init_last": False},
    "resnet50": {"zero_init_last": False},
    "mobilenetv2_100": {},
    "mobilenetv3_large_100": {},
    "efficientnet_b0": {},
    "convnext_tiny": {"depths": (1, 1, 2, 1)},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "deit_tiny_patch16_224": {"img_size": 64, "depth": 2},
}
# edgekd's name -> its pools behind a hard-swish, which stay in float
BUILT_IN_POOLS = {
    "mobilenetv3-small": 9,
    "mobilenetv3-large": 6,
    "efficientnet-lite0": 0,
    "ghostnet": 0,
    "repvgg-a0": 0,
    "mobileone-s0": 0,
}
INTEGER = {"Conv": "QLinearConv", "Gemm": "QGemm", "Add": "QLinearAdd", "GlobalAveragePool": "QLinearGlobalAveragePool"}


class Encoder(nn.Module):
    """Patches, a class token, attention and an MLP, each with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 16, 2, 2), nn.Parameter(torch.randn(1, 1, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.projection = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        q, k, v = self.qkv(self.norm1(x)).reshape(x.shape[0], -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.projection(y)
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x[:, 0])


def scenes(n: int, size: int) -> Tensor:
    """Smooth images with some noise, `[n, 3, size, size]`."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, 3, 4, 4, generator=generator)
    noise = torch.randn(n, 3, size, size, generator=generator)
    return nn.functional.interpolate(coarse, size=(size, size), mode="bilinear") + 0.3 * noise


@pytest.fixture(scope="module")
def timm() -> Iterator[object]:
    # torchvision's wheel for another torch lacks operators that timm's import looks for
    library = None
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor a, Tensor b, float c) -> Tensor")
    yield pytest.importorskip("timm")
    del library


def with_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """`model` with its BatchNorms' statistics taken from `x`, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def quantized(model: nn.Module, scheme: Quantization, x: Tensor) -> GraphModule:
    prepared = prepare(model, scheme, (x[:2],))
    calibrate(prepared, [x])
    return convert(prepared)


def assert_ships(
    model: nn.Module, scheme: Quantization, x: Tensor, path: Path, float_additions: int = 0, float_pools: int = 0
) -> None:
    """Site equality, the same numbers as the torch graph, on the CPU every layer in integers, and no error of lint.

    A pool between float operators stays float: two conversions would cost more than its integer kernel saves.
    """
    converted = quantized(model, scheme, x)
    to_onnx(converted, path, x[:2], opset=20)
    assert sites(path) == sites(converted)
    # Random weights let a rounding grow from layer to layer; the runtime's are to be less than the quantization's own.
    with torch.no_grad():
        quantization = float((model(x) - converted(x)).square().mean().sqrt())
    runtime = difference(path, converted, x)
    assert runtime < 0.7 * quantization, (runtime, quantization)
    written = Counter(node.op_type for node in onnx.load(path).graph.node)
    if scheme.int32_bias:
        run = optimised(path)
        left = {name: (written[name] - run[integer], run[name]) for name, integer in INTEGER.items()}
        in_float = {"Add": (float_additions, float_additions), "GlobalAveragePool": (float_pools, float_pools)}
        assert left == {**dict.fromkeys(INTEGER, (0, 0)), **in_float}
        assert run["Clip"] == run["Relu"] == run["ReduceMean"] == 0
    else:
        assert_nothing_between_layers_and_activations(path)
    target = load_target("x86-cpu" if scheme.int32_bias else "jetson")
    if scheme.rest == "fp16":
        to_fp16(path, path, x.numpy())
        assert sites(path) == sites(converted)
    found = lint(path, target)
    assert [finding for finding in found if finding.severity == "error"] == []
    if not scheme.int32_bias:  # the CPU scheme quantizes what a Gelu or a LayerNormalization reads too, for a warning
        placed_wrong = {"half_quantized_layers", "unquantized_skips", "surplus_pairs", "pairs_inside_a_fusion"}
        assert [finding for finding in found if finding.rule in placed_wrong and finding.severity != "note"] == []


def difference(path: Path, converted: GraphModule, x: Tensor) -> float:
    """Root mean square between the file in onnxruntime and the torch graph."""
    check(path, converted, [x], min_agreement=0, class_axis=1)
    (got,) = open_session(path).run(None, {"input": x.numpy()})
    with torch.no_grad():
        return float((torch.from_numpy(got) - converted(x)).square().mean().sqrt())


def assert_nothing_between_layers_and_activations(path: Path) -> None:
    graph = onnx.load(path).graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Relu", "Clip", "Sigmoid", "HardSwish", "HardSigmoid", "Gelu"):
            assert producers[node.input[0]].op_type in ("Conv", "Add", "Gemm", "MatMul", "LayerNormalization")
        if node.op_type.endswith("izeLinear"):
            assert not constants[node.input[2]].any()


@pytest.mark.parametrize("scheme", [TENSORRT, UINT8], ids=["tensorrt", "cpu"])
@pytest.mark.parametrize("model", [MobileBlock, Encoder], ids=lambda model: model.__name__)
def test_a_small_network_ships_as_it_was_quantized(
    model: type[nn.Module], scheme: Quantization, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    pools = int(model is MobileBlock)  # behind a hard-swish
    assert_ships(seeded(model()), scheme, scenes(16, 8), tmp_path / "model.onnx", float_pools=pools)


@pytest.mark.parametrize("model", [MobileBlock, Encoder], ids=lambda model: model.__name__)
def test_a_small_network_is_written_for_tensorrt_8(model: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = scenes(16, 8)
    converted = quantized(seeded(model()), TENSORRT, x)
    to_onnx(converted, tmp_path / "model.onnx", x[:2], opset=17)
    assert sites(tmp_path / "model.onnx") == sites(converted)
    check(tmp_path / "model.onnx", converted, [x], min_agreement=1.0, class_axis=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("scheme", [JETSON, UINT8], ids=["tensorrt", "cpu"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_of_timm_ships_as_it_was_quantized(
    timm: object, name: str, scheme: Quantization, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = scenes(32, 64)
    model = timm.create_model(name, num_classes=10, **ARCHITECTURES[name])  # type: ignore[attr-defined]
    positions = int(hasattr(model, "pos_embed"))  # a tensor and a constant: that addition is no skip
    assert_ships(with_statistics(model, x), scheme, x, tmp_path / "model.onnx", float_additions=positions)


BLOCKS: dict[str, Callable[[], list[nn.Module]]] = {
    "mobilenetv3": lambda: [
        MobileNetV3Block(Row(3, 32, 16, True, False, 2), 16, 32, 16, 2),
        MobileNetV3Block(Row(5, 32, 16, False, True, 1), 16, 32, 16, 1),
    ],
    "ghostnet": lambda: [
        Bottleneck(GhostRow(3, 32, 32, False, 1), 16, 32, 32, 1),
        Bottleneck(GhostRow(5, 64, 32, True, 2), 32, 64, 32, 2),
    ],
    "repvgg": lambda: [RepVGGBlock(16, 16, 1), RepVGGBlock(16, 24, 2)],
    "mobileone": lambda: [MobileOneBlock(16, 16, 3, 2, 16, 2), MobileOneBlock(16, 16, 1, 1, 1, 2)],
}


def around(blocks: list[nn.Module], width: int) -> nn.Module:
    """A stem of 16 filters, the blocks, a pool and a classifier of 16 classes, for 3 x 16 x 16."""
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 16))


@pytest.mark.parametrize("scheme", [JETSON, UINT8], ids=["tensorrt", "cpu"])
@pytest.mark.parametrize(("name", "width"), [("mobilenetv3", 16), ("ghostnet", 32), ("repvgg", 24), ("mobileone", 16)])
def test_blocks_of_a_built_in_network_ship_as_they_were_quantized(
    name: str, width: int, scheme: Quantization, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = scenes(32, 16)
    model = with_statistics(around(BLOCKS[name](), width), x)
    assert_ships(model, scheme, x, tmp_path / "model.onnx")
    assert unquantized(model, scheme, x) == set()


def unquantized(model: nn.Module, scheme: Quantization, x: Tensor) -> set[tuple[int, int]]:
    """The inputs and outputs of the convolutions whose weight has no scale."""
    prepared = prepare(model, scheme, (x[:2],))
    convolutions = [node for node in prepared.graph.nodes if node.target in CONVOLUTIONS]
    assert convolutions
    left = [node for node in convolutions if quantizer_of(prepared, node.args[1]) is None]
    return {(node.args[0].meta["val"].shape[1], node.meta["val"].shape[1]) for node in left}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [JETSON, UINT8], ids=["tensorrt", "cpu"])
@pytest.mark.parametrize("name", BUILT_IN_POOLS)
def test_a_built_in_network_ships_as_it_was_quantized(name: str, scheme: Quantization, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = scenes(32, 32)
    model = with_statistics(BUILT_IN[name](num_classes=16, small_images=True), x)
    assert_ships(model, scheme, x, tmp_path / "model.onnx", float_pools=BUILT_IN_POOLS[name])
    # TensorRT's scheme takes a convolution of 16 channels on one side, which GhostNet's first cheap ones have not.
    narrow = {(8, 8), (12, 12)} if name == "ghostnet" and scheme is JETSON else set()
    assert unquantized(model, scheme, x) == narrow
