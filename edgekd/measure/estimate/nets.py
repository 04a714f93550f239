"""write_networks: writes small random networks of image classifiers' blocks, to calibrate a device with.

Their weights are random (He et al. 2015, so that no value overflows or vanishes); only their shapes matter here. Each
network depends on its number alone, so that a calibration can be repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.to_half import to_fp16
from edgekd.measure.estimate.calibration import LEAST_OPERATIONS
from edgekd.measure.estimate.kernels import Precision, read_kernels

FAMILIES = ("plain", "residual", "bottleneck", "inverted", "inverted with attention", "grouped", "concatenating")
MOST_OPERATIONS = 6e8
PLACEMENT = {"onnxruntime": "behind", "tensorrt": "before"}
OPSET = 19  # the first with Q and DQ in half precision
SCALE = 6 / 255  # of every activation; behind a ReLU the range starts at zero, so that the runtime can drop the ReLU


def write_networks(folder: Path, count: int, precision: Precision, runtime: str = "onnxruntime") -> list[Path]:
    """Writes `count` networks in fp32, fp16 or int8, quantized in the runtime's way, and returns the files.

    onnxruntime: uint8 activations, Q and DQ behind every operator. tensorrt: int8 with zero-point 0 before the
    convolutions, the classifier and a residual's skip, and half precision between.
    """
    paths: list[Path] = []
    seed = 0
    while len(paths) < count:
        path = folder / f"{precision}-{seed:03}.onnx"
        family, placement = FAMILIES[seed % len(FAMILIES)], PLACEMENT[runtime] if precision == "int8" else ""
        onnx.save(_network(np.random.default_rng(seed), family, placement), path)
        if precision == "fp16" or placement == "before":
            to_fp16(path, path)
        if LEAST_OPERATIONS <= sum(kernel.operations for kernel in read_kernels(path)) <= MOST_OPERATIONS:
            paths.append(path)
        else:
            path.unlink()
        seed += 1
    return paths


def _network(rng: np.random.Generator, family: str, placement: str) -> onnx.ModelProto:
    """A network of a stem, two to four stages of a family's blocks, a pool and a classifier."""
    size = int(rng.choice([32, 48, 64, 96, 128, 160, 224]))
    width = int(rng.choice([8, 12, 16, 16, 24, 32, 32, 48, 64, 96, 128]))
    net = _Writer(rng, placement, size)
    x = net.conv(net.input, width, int(rng.choice([3, 3, 5, 7])), stride=1 if size <= 48 else 2)
    for stage in range(int(rng.integers(2, 5))):
        wider = int(round(width * rng.choice([1.5, 2, 2]) / 4) * 4) if stage else width
        for block in range(int(rng.integers(1, 4))):
            x = _block(net, family, x, wider, 2 if stage and block == 0 else 1)
        width = wider
    return net.finish(x)


def _block(net: _Writer, family: str, x: str, width: int, stride: int) -> str:
    """Writes a block of a family.

    Families with a skip have one if neither shape nor width changes.
    """
    rng, skips = net.rng, stride == 1 and net.channels[x] == width
    if family == "plain":
        return net.conv(x, width, int(rng.choice([3, 3, 3, 5])), stride)
    if family == "residual":
        y = net.conv(net.conv(x, width, 3, stride), width, 3, activation="")
        return net.relu(net.add(y, x if skips else net.conv(x, width, 1, stride, activation="")))
    if family == "bottleneck":
        y = net.conv(net.conv(x, max(width // 2, 8), 1), max(width // 2, 8), 3, stride)
        y = net.conv(y, width, 1, activation="")
        return net.relu(net.add(y, x if skips else net.conv(x, width, 1, stride, activation="")))
    if family == "grouped":
        groups = max(1, width // int(rng.choice([4, 8])) // 2)
        inside = groups * 8
        y = net.conv(net.conv(x, inside, 1), inside, 3, stride, groups)
        y = net.conv(y, width, 1, activation="")
        return net.relu(net.add(y, x)) if skips else net.relu(y)
    if family == "concatenating":
        y = net.conv(net.conv(x, width, 1), max(width // 2, 8), 3, stride)
        return net.concat(y, x if stride == 1 else net.pool(x)) if net.channels[x] < 256 else y
    wide, activation = net.channels[x] * int(rng.choice([2, 3, 4, 6])), net.activation
    y = net.conv(x, wide, 1, activation=activation)
    y = net.conv(y, wide, int(rng.choice([3, 3, 5])), stride, wide, activation=activation)
    if family == "inverted with attention":
        y = net.attend(y)
    y = net.conv(y, width, 1, activation="")
    return net.add(y, x) if skips else y


class _Writer:
    """Writes nodes of a network.

    In a quantized network Q and DQ stand `behind` each operator, or `before` the operators that take integers.
    """

    def __init__(self, rng: np.random.Generator, placement: str, size: int) -> None:
        self.rng, self.placement, self.int8 = rng, placement, bool(placement)
        self.activation = "Clip" if placement else str(rng.choice(["Clip", "Relu", "HardSwish"]))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.channels: dict[str, int] = {}
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])]
        self.constant("scale", np.float32(SCALE))
        self.constant("least_zero", np.uint8(0))
        self.constant("middle_zero", np.uint8(128))
        self.constant("no_zero", np.int8(0))
        self.channels["x"] = 3
        self.input = self.behind("x")

    def conv(self, x: str, width: int, kernel: int, stride: int = 1, groups: int = 1, activation: str = "Relu") -> str:
        inside, x = self.channels[x] // groups, self.before(x)
        weight = self.weight((width, inside, kernel, kernel), 1 / np.sqrt(inside * kernel * kernel / 2))
        y = self.node(
            "Conv", [x, weight, self.bias(width)], width, quantize=not activation, strides=[stride, stride],
            pads=[kernel // 2] * 4, group=groups,
        )  # fmt: skip
        return self.activate(y, activation) if activation else y

    def activate(self, x: str, activation: str) -> str:
        bounds = (
            [self.constant("least", np.float32(0)), self.constant("most", np.float32(6))]
            if activation == "Clip"
            else []
        )
        return self.node(activation, [x, *bounds], self.channels[x])

    def relu(self, x: str) -> str:
        return self.activate(x, "Relu")

    def add(self, a: str, b: str) -> str:
        return self.node("Add", [a, self.before(b)], self.channels[a])

    def concat(self, a: str, b: str) -> str:
        return self.node("Concat", [a, b], self.channels[a] + self.channels[b], axis=1)

    def pool(self, x: str) -> str:
        return self.node("MaxPool", [x], self.channels[x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def attend(self, x: str) -> str:
        """Adds squeeze and excitation (Hu et al. 2018)."""
        width = self.channels[x]
        y = self.node("GlobalAveragePool", [x], width)
        y = self.conv(self.conv(y, max(width // 4, 8), 1), width, 1, activation="")
        y = self.node(str(self.rng.choice(["Sigmoid", "HardSigmoid"])), [y], width)
        return self.node("Mul", [x, y], width)

    def finish(self, x: str) -> onnx.ModelProto:
        width, classes = self.channels[x], int(self.rng.choice([10, 100, 1000]))
        y = self.node("GlobalAveragePool", [x], width)
        y = self.node("Flatten", [y], width, axis=1)
        y = self.node(
            "Gemm",
            [self.before(y), self.weight((classes, width), 1 / np.sqrt(width)), self.bias(classes)],
            classes,
            transB=1,
        )
        output = helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, classes])
        tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "network", self.inputs, [output], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)

    def node(self, operator: str, inputs: list[str], channels: int, *, quantize: bool = True, **settings: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **settings))
        self.channels[name] = channels
        return self.behind(name) if quantize else name

    def behind(self, x: str) -> str:
        if self.placement != "behind":
            return x
        zero = "least_zero" if x.startswith(("relu", "clip", "hardsigmoid", "sigmoid", "maxpool")) else "middle_zero"
        return self.quantized(x, zero)

    def before(self, x: str) -> str:
        return self.quantized(x, "no_zero") if self.placement == "before" else x

    def quantized(self, x: str, zero: str) -> str:
        if f"{x}_d" not in self.channels:
            self.nodes.append(helper.make_node("QuantizeLinear", [x, "scale", zero], [f"{x}_q"]))
            self.nodes.append(helper.make_node("DequantizeLinear", [f"{x}_q", "scale", zero], [f"{x}_d"]))
            self.channels[f"{x}_d"] = self.channels[x]
        return f"{x}_d"

    def weight(self, shape: tuple[int, ...], spread: float) -> str:
        values = self.rng.normal(0, spread, shape).astype(np.float32)
        if not self.int8:
            return self.constant(f"weight_{len(self.nodes)}", values)
        scale = np.abs(values).reshape(shape[0], -1).max(1) / 127
        whole = np.round(values / scale.reshape(-1, *[1] * (len(shape) - 1))).astype(np.int8)
        return self.dequantized("weight", whole, scale.astype(np.float32), np.zeros(shape[0], np.int8))

    def bias(self, width: int) -> str:
        if self.placement != "behind":  # TensorRT takes no quantized bias
            return self.constant(f"bias_{len(self.nodes)}", np.zeros(width, np.float32))
        # The bias's scale is that of the input times that of the weights, whose node comes before.
        scale = self.constants[f"weight_scale_{len(self.nodes) - 1}"] * np.float32(SCALE)
        return self.dequantized("bias", np.zeros(width, np.int32), scale, np.zeros(width, np.int32))

    def dequantized(self, what: str, values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any]) -> str:
        number = len(self.nodes)
        names = [
            self.constant(f"{what}_{part}_{number}", array)
            for part, array in (("q", values), ("scale", scale), ("zero", zero))
        ]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [f"{what}_{number}"], axis=0))
        return f"{what}_{number}"

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name
