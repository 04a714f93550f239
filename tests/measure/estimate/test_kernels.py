"""What a runtime fuses is one kernel; its arithmetic and bytes are those that a pencil gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekd.errors import ModelError
from edgekd.measure.estimate.kernels import Kernel, read_kernels


def kernels(folder: Path, body: str, **weights: tuple[int, ...]) -> tuple[Kernel, ...]:
    """Of a graph of 16 channels of 8x8 pixels, with float weights of these shapes."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> net (float[N, 16, 8, 8] x) => (float[N, a, b, c] y) {{ {body} }}'
    )
    tensors = [onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()]
    tensors += [onnx.numpy_helper.from_array(np.float32(0.1), "s"), onnx.numpy_helper.from_array(np.uint8(0), "z")]
    model.graph.initializer.extend(tensors)
    onnx.save(model, folder / "m.onnx")
    return read_kernels(folder / "m.onnx")


def test_an_activation_and_a_residual_run_in_the_convolution_before(tmp_path: Path) -> None:
    (kernel,) = kernels(tmp_path, "a = Conv<pads=[1,1,1,1]>(x, w) b = Add(a, x) y = Relu(b)", w=(16, 16, 3, 3))

    assert (kernel.kind, kernel.precision, kernel.operations) == ("conv", "fp32", 2 * 16 * 64 * 16 * 9)
    assert kernel.bytes == 4 * (16 * 64 + 16 * 16 * 9 + 16 * 64)  # x is read once, both sums stay inside


def test_a_tensor_that_two_kernels_read_is_written(tmp_path: Path) -> None:
    found = kernels(tmp_path, "a = Conv(x, w) b = Relu(a) c = Sigmoid(a) y = Mul(b, c)", w=(16, 16, 1, 1))
    assert [kernel.kind for kernel in found] == ["pointwise", "elementwise", "elementwise", "elementwise"]


@pytest.mark.parametrize(
    ("node", "shape", "kind", "products"),
    [
        ("Conv<group=16, pads=[1,1,1,1]>", (16, 1, 3, 3), "depthwise", 16 * 64 * 9),
        ("Conv<group=4>", (8, 4, 1, 1), "grouped", 8 * 64 * 4),
        ("Conv<strides=[2,2]>", (8, 16, 1, 1), "pointwise", 8 * 16 * 16),
        ("MatMul", (8, 5), "matmul", 16 * 8 * 5 * 8),
    ],
)
def test_products_are_counted_by_class(
    tmp_path: Path, node: str, shape: tuple[int, ...], kind: str, products: int
) -> None:
    (kernel,) = kernels(tmp_path, f"y = {node}(x, w)", w=shape)
    assert (kernel.kind, kernel.operations) == (kind, 2 * products)


def test_what_only_renames_a_tensor_is_no_kernel_and_a_quantized_one_takes_a_byte(tmp_path: Path) -> None:
    body = "a = Identity(x) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)"
    (kernel,) = kernels(tmp_path, body)
    assert (kernel.kind, kernel.precision) == ("pool", "int8")
    assert kernel.bytes == 16 * 64 + 4 * 16 * 16 and kernel.operations == 16 * 16 * 4


def test_a_json_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"recipe": "x"}')
    with pytest.raises(ModelError, match=r"report\.json .*edgekd lint"):
        read_kernels(tmp_path / "report.json")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"m\.onnx .*edgekd lint"):
        read_kernels(tmp_path / "m.onnx")


def test_half_precision_goes_by_its_name(tmp_path: Path) -> None:
    types = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
    for name, kind in types.items():
        text = '<ir_version: 10, opset_import: ["" : 22]> net (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y) '
        text += f"{{ a = Cast<to = {kind}>(x) b = Conv(a, w) y = Cast<to = 1>(b) }}"
        model = onnx.parser.parse_model(text)
        model.graph.initializer.append(onnx.helper.make_tensor("w", kind, [16, 16, 1, 1], [1.0] * 256))
        onnx.save(model, tmp_path / "m.onnx")
        product = read_kernels(tmp_path / "m.onnx")[1]
        assert (product.kind, product.precision, product.bytes) == ("pointwise", name, 2 * (2 * 16 * 64 + 256))


def test_sizes_that_lie_beside_the_model_are_read(tmp_path: Path) -> None:
    body = 'a = Resize<mode = "nearest">(x, , , sizes) y = Relu(a)'
    inside = kernels(tmp_path, body)
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 16, 16, 16], np.int64), "sizes"))
    onnx.save(model, tmp_path / "inside.onnx")
    onnx.save(model, tmp_path / "beside.onnx", save_as_external_data=True, location="beside.data", size_threshold=0)
    assert read_kernels(tmp_path / "beside.onnx") == read_kernels(tmp_path / "inside.onnx") != inside
