"""prepare, calibrate, convert: post-training quantization, and the two ends of quantization-aware training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.errors import QuantizationError
from edgekd.export.trace import quiet_torch
from edgekd.quantize.bias import float_biases, quantize_biases
from edgekd.quantize.capture import CONVOLUTIONS, capture, constant_name, evaluate, fold_constant, is_constant
from edgekd.quantize.pt2e import (
    FakeQuantizeBase,
    HistogramObserver,
    ObserverBase,
    PerChannelMinMaxObserver,
    convert_pt2e,
    prepare_pt2e,
    prepare_qat_pt2e,
)
from edgekd.quantize.qat import FakeQuantizer, eval_mode, fake_quantizer, watch
from edgekd.quantize.scheme import LINEAR, SUFFIX, Scheme
from edgekd.target import Quantization, Target

DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
DEQUANTIZE_EACH = torch.ops.quantized_decomposed.dequantize_per_channel.default
BIASED = (*CONVOLUTIONS, *LINEAR)


def prepare(
    model: nn.Module,
    target: Target | Quantization,
    example_inputs: tuple[Tensor, ...],
    *,
    qat: bool = False,
    keep_float: Sequence[str] = (),
) -> GraphModule:
    """A copy of `model` as a graph with an observer (`qat`: a fake-quantizer) at each of the target's sites.

    `example_inputs` is one float batch `[batch, C, H, W]`; the graph takes any batch size. The model is not changed.
    `keep_float` names what is left out: "first", "last", or the path of a module.
    Raises QuantizationError where the target has no int8 scheme or `keep_float` names nothing, ExportError where the model cannot be traced.
    """
    quantization = target.quantization if isinstance(target, Target) else target
    if quantization is None:
        assert isinstance(target, Target)
        raise QuantizationError(
            f"target '{target.name}' has no int8 scheme; quantize with mode = \"none\", or choose a target that has one"
        )
    graph = capture(model, example_inputs, trainable=qat)
    scheme = Scheme(quantization, fake_quantizer if qat else _observer, keep_float)
    with quiet_torch():
        prepared: GraphModule = (prepare_qat_pt2e if qat else prepare_pt2e)(graph, scheme)
    _name_observers_once(prepared)
    if qat and quantization.int32_bias:
        quantize_biases(prepared)
    prepared.meta["quantization"] = quantization  # the export asks for it: biases are written as it says
    return prepared


def calibrate(prepared: GraphModule, batches: Iterable[Tensor]) -> None:
    """Shows real samples, float `[batch, C, H, W]` each, to the observers.

    Raises QuantizationError for no samples, for NaN or infinity, and for an activation that never varies.
    """
    seen = 0
    watch(prepared)
    with torch.no_grad():
        for batch in batches:
            if not torch.isfinite(batch).all():
                raise QuantizationError(f"calibration batch {seen} holds NaN or infinity; it must hold real samples")
            prepared(batch)
            seen += 1
    eval_mode(prepared)
    if seen == 0:
        raise QuantizationError("no calibration samples were given; calibrate with some of the training images")
    for tensor, observer in _activation_observers(prepared):
        low, high = float(observer.min_val), float(observer.max_val)
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise QuantizationError(f"activation '{tensor}' is NaN or infinite on the calibration samples")
        if low == high:
            raise QuantizationError(
                f"activation '{tensor}' is {low:g} for every calibration sample: a dead layer, or samples that are all "
                "alike; it has no range to quantize"
            )
    _settle_ranges(prepared)


def convert(prepared: GraphModule) -> GraphModule:
    """The integer model: weights stored as int8, quantize and dequantize at each site, float operators between.

    `prepared` is consumed: torchao reuses its modules; pass a deep copy to keep it.
    Raises QuantizationError where the model was not calibrated.
    """
    for tensor, observer in _activation_observers(prepared):
        if not float(observer.min_val) < float(observer.max_val):
            raise QuantizationError(
                f"activation '{tensor}' was not calibrated; call calibrate(prepared, batches) first"
            )
    float_biases(prepared)
    names = _weight_names(prepared)
    _observe_weights(prepared)
    with quiet_torch():
        converted: GraphModule = convert_pt2e(prepared)
    _name_weights(converted, names)
    _fold_biases(converted, names)
    if converted.meta["quantization"].int32_bias:
        _round_biases(converted)
    return converted


def _observer(dtype: torch.dtype, symmetric: bool, per_channel: bool) -> Any:
    """Weights by their extremes. Activations by the range of least squared error over a histogram."""
    if per_channel:
        return PerChannelMinMaxObserver.with_args(eps=2**-20)
    return _Histogram.with_args(bins=2048, eps=2**-20)


TIE_BREAK = 1 + 2**-10
"""Pixels are multiples of 1/255: with a scale of exactly 2/255 each lies halfway between two integers, and torch and
the runtime would round it differently. A slightly larger scale moves all of them off."""


class _Histogram(HistogramObserver):  # type: ignore[misc]
    """torchao's, with the scale that breaks ties."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()
        return scale * TIE_BREAK, zero_point


def _settle_ranges(prepared: GraphModule) -> None:
    """Scales of quantization-aware training from the calibrated ranges, an image's range moved off the ties."""
    for node in prepared.graph.nodes:
        fake_quantizer = prepared.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(fake_quantizer, FakeQuantizer) or is_constant(node.args[0]):
            continue
        if node.args[0].op == "placeholder":
            fake_quantizer.activation_post_process.min_val.mul_(TIE_BREAK)
            fake_quantizer.activation_post_process.max_val.mul_(TIE_BREAK)
        fake_quantizer.settle()


def _name_observers_once(prepared: GraphModule) -> None:
    """torchao registers an observer that two tensors share under two names: its state would be saved twice."""
    names: dict[int, str] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            node.target = names.setdefault(id(prepared.get_submodule(node.target)), node.target)
    prepared.delete_all_unused_submodules()
    prepared.recompile()


def _activation_observers(prepared: GraphModule) -> list[tuple[str, Any]]:
    """(tensor's name, its observer) in order."""
    found = []
    for node in prepared.graph.nodes:
        if node.op != "call_module":
            continue
        observer = prepared.get_submodule(node.target)
        if isinstance(observer, FakeQuantizeBase):
            observer = observer.activation_post_process
        if isinstance(observer, ObserverBase) and not is_constant(node.args[0]):
            found.append((node.args[0].name, observer))
    return found


def _observe_weights(prepared: GraphModule) -> None:
    """Takes the weights' scales from the weights as they are now: they may have been averaged or loaded since."""
    with torch.no_grad():
        for node in prepared.graph.nodes:
            if node.op == "call_module" and is_constant(node.args[0]):
                prepared.get_submodule(node.target)(evaluate(prepared, node.args[0]))


def _weight_names(prepared: GraphModule) -> dict[tuple[str, int], str]:
    """(operator, argument) -> the parameter that is quantized there; conversion forgets the names."""
    return {
        (node.name, index): constant_name(arg)
        for node in prepared.graph.nodes
        for index, arg in enumerate(node.args)
        if isinstance(arg, torch.fx.Node) and arg.op == "call_module" and is_constant(arg)
    }


def _fold_biases(converted: GraphModule, names: dict[tuple[str, int], str]) -> None:
    """Computes the shifts of absorbed BatchNorms, which training kept as expressions."""
    for node in list(converted.graph.nodes):
        weight = names.get((node.name, 1))
        bias = node.args[2] if weight is not None and len(node.args) > 2 else None
        if weight is not None and isinstance(bias, torch.fx.Node) and bias.op == "call_function":
            fold_constant(converted, bias, weight.removesuffix("weight") + "bias")
    converted.graph.eliminate_dead_code()
    converted.recompile()


def _round_biases(converted: GraphModule) -> None:
    """Rounds biases to multiples of `s_x * s_w`, the int32 that the export stores, so that torch computes the same."""
    with torch.no_grad():
        for node in converted.graph.nodes:
            if node.target not in BIASED or len(node.args) < 3 or node.args[2] is None:
                continue
            x, weight, bias = node.args[:3]
            if (
                x.target is not DEQUANTIZE
                or not is_constant(bias)
                or weight.target not in (DEQUANTIZE, DEQUANTIZE_EACH)
            ):
                continue
            s_w = weight.args[1] if weight.target is DEQUANTIZE else evaluate(converted, weight.args[1])
            scale = x.args[1] * s_w
            value = evaluate(converted, bias)
            value.copy_(torch.round(value / scale) * scale)


def _name_weights(converted: GraphModule, names: dict[tuple[str, int], str]) -> None:
    """Stores each int8 weight as `<parameter>_quantized`, so that sites keep their names up to the ONNX file."""
    for node in converted.graph.nodes:
        for index, arg in enumerate(node.args):
            name = names.get((node.name, index))
            if name is None:
                continue
            stored = arg.args[0]
            *path, leaf = (name + SUFFIX).split(".")
            owner = converted.get_submodule(".".join(path))
            if not hasattr(owner, leaf):
                owner.register_buffer(leaf, converted.get_buffer(stored.target))
            stored.target = name + SUFFIX
    converted.delete_all_unused_submodules()
    converted.recompile()
