"""The operations of a file are those that torch counts of the module, or a pencil of a hand-made graph; the rest is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgekd.errors import ModelError
from edgekd.export.shapes import fix_sizes, read_sizes
from edgekd.measure.estimate.estimate import estimate
from edgekd.measure.estimate.kernels import read_work
from edgekd.target import load_target

FAULTS = "faults"
CONV = 231_211_008  # the faults' convolution of 64 to 64 channels, 3x3, on 56x56


class Product(nn.Module):
    """An einsum or a matrix product with a stored weight."""

    def __init__(self, equation: str, *shape: int) -> None:
        super().__init__()
        self.equation, self.weight = equation, nn.Parameter(torch.randn(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum(self.equation, x, self.weight) if self.equation else x @ self.weight


STUDENTS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1)), (1, 3, 17, 16)),
    "dilated": (nn.Conv2d(4, 6, 3, dilation=2, groups=2), (1, 4, 12, 12)),
    "conv1d": (nn.Conv1d(4, 6, 5), (1, 4, 33)),
    "conv3d": (nn.Conv3d(2, 4, 3), (1, 2, 6, 7, 8)),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, 2, 1, 1), (1, 6, 9, 9)),
    "transposed in groups": (nn.ConvTranspose2d(6, 4, 2, 2, groups=2), (1, 6, 8, 8)),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.GELU(), nn.Linear(20, 3)), (1, 3, 4, 4)),
    "batched": (Product("", 5, 8, 6), (5, 7, 8)),
    "einsum": (Product("bij,jk->bik", 6, 9), (2, 4, 6)),
    "attention": (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0), (1, 10, 16)),
}  # fmt: skip


def work_of(path: Path, model: onnx.ModelProto) -> tuple[int, tuple[str, ...]]:
    onnx.save(model, path)
    work = read_work(path)
    return sum(kernel.operations for kernel in work.kernels), work.unknown


def graph(path: Path, text: str, **weights: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
    header = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1, "acme" : 1]> '
    model = onnx.parser.parse_model(header + text)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()
    )
    return work_of(path, model)


@pytest.mark.filterwarnings("ignore")  # of torch's exporter
@pytest.mark.parametrize("name", STUDENTS)
def test_products_are_those_that_torch_counts(tmp_path: Path, name: str) -> None:
    """FlopCounterMode counts products alone: they are compared with the kernels that multiply."""
    module, shape = STUDENTS[name]
    module = module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(True)  # the fused path of attention hides its products from torch's counter
    x = torch.randn(shape)
    # Of attention torch counts the products only where it makes them one by one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(x)
    torch.onnx.export(module, (x,), tmp_path / "m.onnx", dynamo=True, verbose=False)
    work = read_work(tmp_path / "m.onnx")
    counted = sum(k.operations for k in work.kernels if k.kind not in ("elementwise", "pool", "move"))
    assert not work.unknown
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_product_with_a_vector_is_counted(tmp_path: Path) -> None:
    """torch's counter leaves these out: by pencil."""
    assert graph(tmp_path / "m.onnx", "net (float[3,8] x) => (float[3] y) { y = MatMul(x, w) }", w=(8,)) == (
        2 * 3 * 8,
        (),
    )


@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_a_recurrent_layer_multiplies_at_every_step(tmp_path: Path, op: str, gates: int) -> None:
    body = f"net (float[12,1,8] x) => (float[12,1,1,5] y) {{ y = {op}<hidden_size=5>(x, w, r) }}"
    counted, unknown = graph(tmp_path / "m.onnx", body, w=(1, gates * 5, 8), r=(1, gates * 5, 5))
    assert (counted, unknown) == (2 * 12 * gates * 5 * (8 + 5), ())


def test_integer_products_are_counted(tmp_path: Path) -> None:
    body = """net (uint8[1,4,8,8] x, uint8[6,4,3,3] w, uint8[3,7] a, uint8[7,5] b) => (int32[1,6,6,6] y, int32[3,5] z)
    { y = ConvInteger(x, w) z = MatMulInteger(a, b) }"""
    assert graph(tmp_path / "m.onnx", body) == (2 * (6 * 36 * 4 * 9 + 3 * 7 * 5), ())


def test_a_quantized_convolution_is_int8_and_counted(tmp_path: Path) -> None:
    body = """net (uint8[1,4,8,8] x, float s, uint8 z, uint8[6,4,3,3] w) => (uint8[1,6,6,6] y)
    { y = QLinearConv(x, s, z, w, s, z, s, z) }"""
    counted, _ = graph(tmp_path / "m.onnx", body)
    (kernel,) = read_work(tmp_path / "m.onnx").kernels
    assert (counted, kernel.precision, kernel.kind) == (2 * 6 * 36 * 4 * 9, "int8", "narrow conv")


def test_a_gather_reads_what_it_takes(tmp_path: Path) -> None:
    body = "net (int64[1,3] i) => (float[1,3,16] y) { y = Gather(table, i) }"
    graph(tmp_path / "m.onnx", body, table=(50000, 16))
    (kernel,) = read_work(tmp_path / "m.onnx").kernels
    assert kernel.bytes == 4 * 48 + 8 * 3 + 4 * 48


def test_a_loop_counts_its_rounds_and_an_if_its_dearer_branch(shared: Path) -> None:
    loop = read_work(shared / FAULTS / "estimate_subgraphs" / "loop_heavy.onnx")
    assert sum(kernel.operations for kernel in loop.kernels) == 100 * CONV
    assert sum(kernel.runs for kernel in loop.least) == 100
    branches = read_work(shared / FAULTS / "estimate_subgraphs" / "if_heavy.onnx")
    assert sum(kernel.operations for kernel in branches.kernels) == CONV and branches.least == ()
    assert "cheaper branch" in branches.assumptions[0]


def test_a_loop_of_unknown_rounds_is_not_estimated(tmp_path: Path) -> None:
    body = """net (float[4,4] x, int64 n, bool c) => (float[4,4] y) {
      y = Loop (n, c, x) <body = b (int64 i, bool g, float[4,4] h) => (bool o, float[4,4] k) { o = Identity(g) k = MatMul(h, h) }>
    }"""
    counted, unknown = graph(tmp_path / "m.onnx", body)
    assert counted == 2 * 64 and unknown == ("Loop y: how often it runs is unknown",)
    with pytest.raises(ModelError, match=r"1 nodes \(Loop y"):
        estimate(tmp_path / "m.onnx", load_target("jetson-orin-nano"))


def test_a_scan_runs_along_its_axis(tmp_path: Path) -> None:
    body = """net (float[4,4] h0, float[9,4,4] x) => (float[4,4] h, float[9,4,4] y) {
      h, y = Scan <num_scan_inputs = 1, body = b (float[4,4] a, float[4,4] e) => (float[4,4] n, float[4,4] m)
        { n = MatMul(a, e) m = Identity(n) }> (h0, x)
    }"""
    assert graph(tmp_path / "m.onnx", body) == (9 * 2 * 64, ())


def test_a_local_function_is_what_it_holds(tmp_path: Path) -> None:
    body = """net (float[4,4] x) => (float[4,4] y) { y = acme.twice(x) }
    <domain: "acme", opset_import: ["" : 20]> twice (a) => (c) { b = MatMul(a, a) c = MatMul(b, a) }"""
    assert graph(tmp_path / "m.onnx", body) == (2 * 2 * 64, ())


def test_what_has_no_rule_and_what_lies_behind_it_is_said(tmp_path: Path, shared: Path) -> None:
    behind = shared / FAULTS / "estimate_unknown_shapes" / "custom_then_conv.onnx"
    with pytest.raises(ModelError, match=r"2 nodes \(MyNorm cu, Conv c\)"):
        estimate(behind, load_target("jetson-orin-nano"))
    graph(tmp_path / "m.onnx", "net (float[4,4] x) => (float[4,4] y) { a = MatMul(x, x) y = acme.Odd(a) }")
    made = estimate(tmp_path / "m.onnx", load_target("jetson-orin-nano"))
    assert made is not None and made.high_ms is None and made.leaves_out[0] == "not estimated: 1 nodes (Odd)"


def test_a_size_that_is_told_goes_before_the_batch_of_one_and_two_of_a_symbol_are_refused() -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]> g (float[N,3] a, float[N,5] b) => (float[N,8] y) { y = Concat <axis = 1> (a, b) }'
    model = onnx.parser.parse_model(text)
    fix_sizes(model, {"b": (4, 5)}, "model")
    assert [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input] == [
        [4, 3],
        [4, 5],
    ]
    with pytest.raises(ModelError, match=r"--shape b: N is 2 .*not 4"):
        fix_sizes(onnx.parser.parse_model(text), {"a": (2, 3), "b": (4, 5)}, "model")


def test_free_sizes_are_asked_for_and_taken(shared: Path) -> None:
    file = shared / FAULTS / "estimate_free_sizes" / "conv_dynhw.onnx"
    with pytest.raises(ModelError, match=r"x's h, x's w.*--shape x=1,64,h,w"):
        read_work(file)
    work = read_work(file, read_sizes(["x=1,64,56,56"]))
    assert sum(kernel.operations for kernel in work.kernels) == CONV
    with pytest.raises(ModelError, match="--shape x: axis 1 is 64"):
        read_work(file, {"x": (1, 3, 56, 56)})
    with pytest.raises(ModelError, match=r"no input z.*inputs: x"):
        read_work(file, {"z": (1,)})


@pytest.mark.parametrize("text", ["x", "x=", "=1", "x=0", "x=1,a", "x=-1", "x=99999999999"])
def test_a_shape_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="--shape x=1,3,640,640"):
        read_sizes([text])


@pytest.mark.parametrize("name", ["no_nodes", "string_in", "zero_batch"])
def test_a_file_without_work_has_no_estimate(shared: Path, name: str) -> None:
    with pytest.raises(ModelError):
        estimate(shared / FAULTS / "estimate_unknown_shapes" / f"{name}.onnx", load_target("jetson-orin-nano"))
