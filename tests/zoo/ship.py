"""A student of the zoo through what a build does with it for one target: captured, quantized, written, run in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekd.export.lint import lint
from edgekd.export.to_half import to_fp16
from edgekd.export.to_onnx import to_onnx
from edgekd.quantize import calibrate, convert, prepare, sites
from edgekd.quantize.constants import is_constant
from edgekd.quantize.layers import layers_of
from edgekd.quantize.operators import WITH_WEIGHTS
from edgekd.quantize.qat import quantizer_of
from edgekd.quantize.same import distance
from edgekd.quantize.sensitivity import FloatOperator, float_operators
from edgekd.runtime.check import open_session
from edgekd.target import Target, list_targets
from tests.zoo.student import SIZE

SAMPLES = 64


@dataclass(frozen=True)
class Shipped:
    """How far the files of a student are from its module: relative root mean squares of the answers on `SAMPLES` images."""

    fp32: float
    int8: float
    rounding: float
    """Of the int8 file in onnxruntime from the integer graph in torch."""
    layers: int
    """Layers whose weights are int8."""
    in_float: tuple[FloatOperator, ...]
    """What stays in float, each with the reason."""
    unsaid: tuple[str, ...]
    """Layers that are neither int8 nor among what stays in float."""
    errors: tuple[str, ...]
    """What the lint of the target calls an error."""


COLUMNS = ("android-arm64", "jetson-agx-orin", "jetson-xavier-nx", "raspberry-pi-5", "x86-cpu")
"""The targets that give their names to the formats that they are of, in docs/zoo.md too."""


def formats() -> dict[str, list[str]]:
    """A target of each format -> all targets of this format: the same scheme of int8 and the same opset."""
    found: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for target in sorted(list_targets(), key=lambda target: target.name not in COLUMNS):
        scheme = target.int8.model_dump(exclude={"source", "date"})
        key = repr((target.runtime.name, target.runtime.default_opset, scheme))
        found.setdefault(first.setdefault(key, target.name), []).append(target.name)
    return found


def images(n: int) -> Tensor:
    """Smooth images with some noise, float `[n, 3, SIZE, SIZE]`."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, 3, 4, 4, generator=generator)
    noise = torch.randn(n, 3, SIZE, SIZE, generator=generator)
    return nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear") + 0.3 * noise


def made(student: Callable[[], nn.Module]) -> nn.Module:
    """In evaluation mode, with norms as training leaves them: statistics of its images, a scale and shift of their own."""
    torch.manual_seed(0)
    model = student()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
    with torch.no_grad():
        model.train()(images(SAMPLES))
    return model.eval()


def ship(student: Callable[[], nn.Module], target: Target, folder: Path) -> Shipped:
    """Raises what edgekd raises where a student cannot be shipped."""
    model, x = made(student), images(SAMPLES)
    opset = target.runtime.default_opset
    with torch.no_grad():
        expected = model(x.clone())
    to_onnx(model, folder / "fp32.onnx", x[:2].clone(), opset=opset)
    fp32 = distance([answer(folder / "fp32.onnx", x)], [expected])

    prepared = prepare(model, target, (x[:2].clone(),))
    calibrate(prepared, [x.clone()])
    layers = len(layers_of(prepared))
    in_float = float_operators(prepared)
    unsaid = _float_layers(prepared) - {operator.operator for operator in in_float}
    converted = convert(prepared)
    with torch.no_grad():
        integer = converted(x.clone())
    path = folder / "int8.onnx"
    to_onnx(converted, path, x[:2].clone(), opset=opset)
    assert sites(path) == sites(converted), sites(path) ^ sites(converted)
    rounding = distance([answer(path, x)], [integer])
    if target.int8.rest == "fp16":
        to_fp16(path, path, x.numpy())
    return Shipped(
        fp32,
        distance([answer(path, x)], [expected]),
        rounding,
        layers,
        tuple(in_float),
        tuple(unsaid),
        tuple(f"{finding.rule}: {finding.why}" for finding in lint(path, target) if finding.severity == "error"),
    )


def _float_layers(prepared: GraphModule) -> set[str]:
    """The operators with a weight of their own that has no quantizer, by torch's names."""
    return {
        str(node.target).removeprefix("aten.").partition(".")[0]
        for node in prepared.graph.nodes
        if node.target in WITH_WEIGHTS
        and isinstance(node.args[0], Node)
        and not is_constant(node.args[0])
        and quantizer_of(prepared, node.args[1]) is None
    }


def answer(path: Path, x: Tensor) -> Tensor:
    """What onnxruntime computes, float32."""
    session = open_session(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(np.asarray(found, np.float32))
