"""Estimates: how long a model would take on a device that is not at hand, from the device's profile alone.

The roofline model (Williams et al. 2009): a node takes at least its arithmetic over the device's peak for its number
format, and at least its bytes over the memory's bandwidth. What it leaves out (kernel launches, small layers that do
not fill the device) only makes the real time longer: it is a lower bound, good for an order, never a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx

from edgekd.target import Hardware

BYTES: dict[int, int] = {
    onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.INT8: 1, onnx.TensorProto.UINT8: 1, onnx.TensorProto.INT32: 4,
    onnx.TensorProto.INT64: 8, onnx.TensorProto.BOOL: 1,
}  # fmt: skip
FORMATS = {4: "fp32", 2: "fp16", 1: "int8"}
Shapes = Mapping[str, tuple[tuple[int, ...], int]]


def lower_bound_ms(path: Path, hardware: Hardware) -> float | None:
    """Milliseconds of one sample, at the least; None where the profile states no bandwidth.

    A peak that the profile does not state costs nothing: the bound is then by bytes alone.
    """
    if hardware.memory_bandwidth_gbs is None:
        return None
    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    shapes = _shapes(model)
    stored = _stored_bytes(model, shapes)
    peaks = {"int8": hardware.peak_int8_tops, "fp16": hardware.peak_fp16_tflops, "fp32": hardware.peak_fp32_tflops}
    # A float32 network that a profile gives no peak for cannot be faster than its half-precision twin.
    peaks["fp32"] = peaks["fp32"] or peaks["fp16"]
    seconds = 0.0
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        moved = sum(math.prod(shapes[name][0]) * stored[name] for name in [*node.input, *node.output] if name in shapes)
        peak = peaks[FORMATS.get(stored.get(node.input[0], 4), "fp32")]
        seconds += max(
            moved / (hardware.memory_bandwidth_gbs * 1e9), 2 * _products(node, shapes) / (peak * 1e12) if peak else 0.0
        )
    return 1e3 * seconds


def _shapes(model: onnx.ModelProto) -> Shapes:
    """Each tensor's shape, with a batch of 1, and type."""
    graph = model.graph
    found = {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        found[value.name] = (
            tuple(dim.dim_value if dim.HasField("dim_value") else 1 for dim in tensor.shape.dim),
            tensor.elem_type,
        )
    return found


def _stored_bytes(model: onnx.ModelProto, shapes: Shapes) -> dict[str, int]:
    """Bytes of a tensor's element as the device keeps it: what a DequantizeLinear gives is read as what went in."""
    stored = {name: BYTES.get(kind, 4) for name, (_, kind) in shapes.items()}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            stored[node.output[0]] = stored.get(node.input[0], 1)
    return stored


def _products(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Multiply-adds of a convolution or a matrix product."""
    output, weight = shapes.get(node.output[0]), shapes.get(node.input[1])
    if output is None or weight is None:
        return 0
    if node.op_type == "Conv":
        return math.prod(output[0]) * math.prod(weight[0][1:])
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return math.prod(output[0]) * (weight[0][-1] if transposed else weight[0][-2])
