"""prepare, calibrate, convert: post-training quantization, and the first and last step of quantization-aware training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekd.errors import QuantizationError
from edgekd.models.trace import Batch, Free, quiet_torch
from edgekd.quantize.bias import float_biases, quantize_biases
from edgekd.quantize.capture import capture
from edgekd.quantize.constants import constant_name, evaluate, fold_constant, is_constant
from edgekd.quantize.fold import hidden_batch_norms, show_batch_norms
from edgekd.quantize.operators import LAYERS, aten
from edgekd.quantize.pt2e import convert_pt2e, prepare_qat_pt2e
from edgekd.quantize.qat import activation_quantizers, eval_mode, fake_quantizer, in_float, weight_quantizers
from edgekd.quantize.ranges import RANGES
from edgekd.quantize.same import check_prepared, check_same, samples_of
from edgekd.quantize.scheme import SUFFIX, Scheme
from edgekd.quantize.sizes import least
from edgekd.quantize.statistics import Statistics, observe, quantizers_by_tensor
from edgekd.target import Quantization, Target

DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
DEQUANTIZE_EACH = torch.ops.quantized_decomposed.dequantize_per_channel.default
TIE_BREAK = 1 + 2**-10
"""A factor that makes each scale slightly larger.

Pixels are multiples of 1/255. With a scale of exactly 2/255 each pixel lies halfway between two integers. Torch and the
runtime would round such a pixel differently.
"""
LEAST_OF_SOFTMAX = 1 / 128
"""Least scale of a softmax's output, times its number of values n.

onnxruntime's integer softmax overflows below a scale of 1 / (148 n). A largest value of 1.7 equal shares has this scale.
"""
DEFAULT = "mse"


def prepare(
    model: nn.Module,
    target: Target | Quantization,
    example_inputs: tuple[Tensor, ...],
    *,
    qat: bool = False,
    keep_float: Sequence[str] = (),
    free: Free = (),
) -> GraphModule:
    """A copy of `model` as a graph with a fake-quantizer at each of the target's sites.

    With `qat` BatchNorm's parameters continue to learn; otherwise they are folded into the weights. `example_inputs` is a
    batch of each of the model's arguments, `[batch, ...]`. The graph takes any batch size. The model is not changed.
    `keep_float` names operators that stay float: "first", "last", or the path of a module. `free` lists further free sizes,
    with one mapping from axis to `FreeSize` for each input: `({1: length}, {1: length})`.

    Raises QuantizationError if the target has no int8 scheme or if `keep_float` names nothing. Raises it also if the model
    fails at a free size within its bounds. Raises ExportError if the model cannot be traced.
    """
    quantization = target.int8 if isinstance(target, Target) else target
    graph = capture(model, example_inputs, trainable=qat, free=free)
    samples = samples_of(example_inputs)
    check_same(model, graph, samples, trained=qat, free=free)
    with quiet_torch(), hidden_batch_norms(graph.graph):
        prepared: GraphModule = prepare_qat_pt2e(graph, Scheme(quantization, fake_quantizer, keep_float))
    show_batch_norms(prepared.graph)
    _name_observers_once(prepared)
    for _, quantizer in weight_quantizers(prepared):  # a weight is known at once: no average is needed
        quantizer.activation_post_process.averaging_constant = 1.0
    sizes = {node.name: _size_of_softmax(node) for node in prepared.graph.nodes}
    for tensor, quantizer in activation_quantizers(prepared):
        # A free size counts with its least value: fewer values have larger shares.
        if (size := sizes.get(tensor)) is not None:
            quantizer.least_scale = LEAST_OF_SOFTMAX / least(prepared.graph, size)
    if quantization.int32_bias:
        quantize_biases(prepared)
    prepared.meta["trainable"] = qat
    with in_float(prepared):
        check_prepared(model, prepared, samples, free)
    prepared.meta["quantization"] = quantization  # the export reads from it how biases are written
    return prepared


def calibrate(prepared: GraphModule, batches: Iterable[Batch], method: str = DEFAULT) -> None:
    """Runs the model on real samples and decides each activation's range.

    A batch is the model's argument, `[batch, ...]`, or the tuple of its arguments in their order.

    Raises QuantizationError for no samples, for samples that are all one value, and for NaN or infinity. Raises it also if
    a batch does not fit the model's arguments.
    """
    set_ranges(prepared, observe(prepared, batches), method)


def set_ranges(prepared: GraphModule, statistics: Mapping[str, Statistics], method: str = DEFAULT) -> None:
    """Decides each activation's range by a method of edgekd.quantize.ranges. The model then computes as the shipped model."""
    for tensor, quantizer in quantizers_by_tensor(prepared).items():
        symmetric = quantizer.qscheme == torch.per_tensor_symmetric
        # With 16 bits, clipping gains nothing.
        bits = quantizer.activation_post_process
        decide = RANGES[method if bits.quant_max - bits.quant_min < 256 else "minmax"]
        tensor_statistics = statistics[tensor]
        low, high = (
            decide(tensor_statistics, symmetric=symmetric)
            if tensor_statistics.low < tensor_statistics.high
            else _around(tensor_statistics.low)
        )
        quantizer.cover(low * TIE_BREAK, high * TIE_BREAK)
    if not prepared.meta["trainable"]:
        for weight, quantizer in weight_quantizers(prepared):
            quantizer.fit(evaluate(prepared, weight))
    eval_mode(prepared)


def _size_of_softmax(node: Node) -> int | torch.SymInt | None:
    """The number of values that a softmax normalises together; None for another operator."""
    if node.target is not aten.softmax.int:
        return None
    value, axis = node.meta["val"], node.args[1]
    return value.shape[axis]  # type: ignore[no-any-return]


def _around(value: float) -> tuple[float, float]:
    """A range from 0 to `value`, for an activation that always has this value: it is then exact.

    An activation that is always 0, as of a dead layer, is exact with any range.
    """
    return (min(value, 0.0), max(value, 0.0)) if value else (0.0, 1.0)


def convert(prepared: GraphModule) -> GraphModule:
    """The integer model: int8 weights, quantize and dequantize at each site, float operators between them.

    torchao reuses the modules of `prepared`; pass a deep copy to keep it. Raises QuantizationError if the model was not
    calibrated.
    """
    for tensor, quantizer in activation_quantizers(prepared):
        if not quantizer.has_range:
            raise QuantizationError(
                f"activation '{tensor}' was not calibrated; call calibrate(prepared, batches) first"
            )
    float_biases(prepared)
    names = _weight_names(prepared)
    _observe_weights(prepared)
    with quiet_torch(), hidden_batch_norms(prepared.graph):
        converted: GraphModule = convert_pt2e(prepared)
    show_batch_norms(converted.graph)
    _name_weights(converted, names)
    _fold_biases(converted, names)
    if converted.meta["quantization"].int32_bias:
        _round_biases(converted)
    return converted


def _name_observers_once(prepared: GraphModule) -> None:
    """Gives an observer that two tensors share a single name.

    torchao registers the observer under two names, so its state would be saved twice.
    """
    names: dict[int, str] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            node.target = names.setdefault(id(prepared.get_submodule(node.target)), node.target)
    prepared.delete_all_unused_submodules()
    prepared.recompile()


def _observe_weights(prepared: GraphModule) -> None:
    """Computes the weights' scales from the current weights, which may have been averaged or loaded since."""
    with torch.no_grad():
        for weight, quantizer in weight_quantizers(prepared):
            quantizer(evaluate(prepared, weight))


def _weight_names(prepared: GraphModule) -> dict[tuple[str, int], str]:
    """(operator, argument) -> the name of the parameter quantized there. The conversion forgets these names."""
    return {
        (node.name, index): constant_name(arg)
        for node in prepared.graph.nodes
        for index, arg in enumerate(node.args)
        if isinstance(arg, torch.fx.Node) and arg.op == "call_module" and is_constant(arg)
    }


def _fold_biases(converted: GraphModule, names: dict[tuple[str, int], str]) -> None:
    """Computes the shifts of absorbed BatchNorms. The training had kept them as expressions."""
    for node in list(converted.graph.nodes):
        weight = names.get((node.name, 1))
        bias = node.args[2] if weight is not None and len(node.args) > 2 else None
        if weight is not None and isinstance(bias, torch.fx.Node) and bias.op == "call_function":
            fold_constant(converted, bias, weight.removesuffix("weight") + "bias")
    converted.graph.eliminate_dead_code()
    converted.recompile()


def _round_biases(converted: GraphModule) -> None:
    """Rounds biases to multiples of `s_x * s_w`, as the export stores them in int32. Torch then computes the same."""
    with torch.no_grad():
        for node in converted.graph.nodes:
            if node.target not in LAYERS or len(node.args) < 3 or node.args[2] is None:
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
