"""Rules on Q/DQ pairs: their parameters and their places.

Sources: NVIDIA, "Working with Quantized Types" (explicit quantization, placement recommendations), and the operators that
onnxruntime fuses into QLinear kernels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnxscript import ir

from edgekd.export.finding import LAYERS, Finding, LintedModel, Severity, array, given, producer, readers, sizes, title

Q, DQ = "QuantizeLinear", "DequantizeLinear"
FEWEST_CHANNELS = 16
"""With fewer channels NVIDIA's own quantizer leaves convolutions and matrix products in float."""
SAME_STEPS = 0.01  # of a scale; onnxruntime 1.31 fuses a convolution at 1.1 % and none at 1.5 %
ACTIVATIONS = (
    "Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softplus", "Gelu",
    "Mish",
)  # fmt: skip
# Operators that an integer kernel absorbs after a layer. TensorRT fuses any pointwise activation, onnxruntime only a clip.
ABSORBED = {"tensorrt": ("BatchNormalization", *ACTIVATIONS), "onnxruntime": ("BatchNormalization", "Relu", "Clip")}
# Operators that no runtime here computes in int8.
FLOAT_ONLY = (
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "Erf", "Gelu", "Exp", "Log",
    "Pow", "Sqrt", "Softplus", "Mish",
)  # fmt: skip


def zero_points(subject: LintedModel) -> Iterator[Finding]:
    """TensorRT requires zero-points that are constant int8 zeros."""
    for node in _nodes(subject, Q, DQ):
        zero_point = given(node, 2)
        quantize = producer(given(node, 0), Q)
        if _is_int32(node) or (quantize is not None and given(quantize, 2) is zero_point):
            continue  # int32_biases reports the first case; a pair is reported once
        if zero_point is None:
            means_uint8 = node.op_type == Q and node.outputs[0].dtype == ir.DataType.UINT8
            why = "no zero-point: ONNX then means uint8, which TensorRT does not compute in" if means_uint8 else ""
        elif (values := array(zero_point)) is None:
            why = "the zero-point is computed; TensorRT's parser takes constants only"
        elif values.astype(np.float32).any():
            why = "a zero-point other than 0, which TensorRT's parser refuses"
        else:
            why = "quantizes to uint8; TensorRT computes in int8 only" if zero_point.dtype == ir.DataType.UINT8 else ""
        if why:
            remedy = (
                "quantize symmetrically: int8 with the constant zero-point 0 (quantize_static: activation_symmetric)"
            )
            yield Finding("error", "zero_points", title(node), why, remedy)


def int32_biases(subject: LintedModel) -> Iterator[Finding]:
    """TensorRT requires float biases."""
    for node in _nodes(subject, DQ):
        if _is_int32(node):
            why = "dequantizes int32, as onnxruntime does with a bias; TensorRT's parser knows int8 only and refuses it"
            yield Finding("error", "int32_biases", title(node), why, "keep biases in float (quantize_bias = False)")


def bias_scales(subject: LintedModel) -> Iterator[Finding]:
    """onnxruntime takes an integer bias only in the steps of the sums: scales of input times weight, within 1 %."""
    for node in _nodes(subject, "Conv", "Gemm"):
        x, weight, bias = (producer(given(node, index), DQ) for index in range(3))
        scales = [array(given(each, 1)) if each is not None else None for each in (x, weight, bias)]
        if any(scale is None for scale in scales):
            continue
        of_input, of_weight, found = (np.asarray(scale, np.float64).reshape(-1) for scale in scales)
        if len({scale.size for scale in (of_input, of_weight, found)} - {1}) > 1:
            continue  # scales of blocks, or of the input's channels: no kernel of onnxruntime's takes them
        apart = np.abs(found / (of_input * of_weight) - 1).max() if (of_input * of_weight > 0).all() else 0.0
        if apart > SAME_STEPS:
            why = f"the bias's scale is not that of input times weight (by {apart:.0%}): onnxruntime computes the layer in float"
            remedy = "quantize the bias with the scale of the input times that of each channel of the weight, and zero-point 0"
            yield Finding("warning", "bias_scales", title(node), why, remedy)


def per_tensor_weights(subject: LintedModel) -> Iterator[Finding]:
    """A weight has a single scale for all output channels, while the target takes a scale for each channel."""
    scheme = subject.target.quantization
    if scheme is None or not scheme.weight_per_channel:
        return
    for node in _nodes(subject, *LAYERS):
        dequantize = producer(given(node, 1), DQ)
        scale = array(given(dequantize, 1)) if dequantize is not None and _is_stored(dequantize) else None
        if scale is not None and scale.size == 1 and _output_channels(node) > 1:
            why = f"one scale for {_output_channels(node)} channels of the weight: the small ones lose their bits"
            remedy = "quantize weights per channel (per_channel = True); it costs nothing at run time"
            yield Finding("warning", "per_tensor_weights", title(node), why, remedy)


def half_quantized_layers(subject: LintedModel) -> Iterator[Finding]:
    """A layer has one quantized and one float operand, so it runs in float."""
    for node in _nodes(subject, *LAYERS):
        sources = [producer(given(node, index), DQ) for index in (0, 1)]
        if (sources[0] is None) != (sources[1] is None):
            lacks = "its input is" if sources[0] is None else "its weight is"
            remedy = "quantize both operands, or neither"
            why = f"{lacks} not quantized while the other operand is: it runs in float and pays for the dequantization"
            yield Finding("warning", "half_quantized_layers", title(node), why, remedy)


def unquantized_skips(subject: LintedModel) -> Iterator[Finding]:
    """A residual addition behind a quantized layer has float operands, so the runtime cannot fuse it."""
    for node in _nodes(subject, "Add", "Sum"):
        if len(node.inputs) != 2 or any(array(value) is not None for value in node.inputs):
            continue  # a bias
        layers = [_layer_behind(value) for value in node.inputs]
        if not any(layer is not None and producer(given(layer, 0), DQ) is not None for layer in layers):
            continue
        quantized = [producer(value, DQ) is not None for value in node.inputs]
        if any(quantized) if subject.is_tensorrt else all(quantized):
            continue
        if subject.is_tensorrt:
            why = "the skip is not quantized: the addition is not fused into the int8 convolution and runs in float"
            remedy = "put a Q/DQ pair on the skip input, the one that does not come from the last convolution"
        else:
            why = "not every input is quantized: the addition between int8 layers runs in float"
            remedy = "put Q/DQ pairs on both inputs and on the output"
        yield Finding("warning", "unquantized_skips", title(node), why, remedy)


def pairs_inside_a_fusion(subject: LintedModel) -> Iterator[Finding]:
    """A Q/DQ pair stands between a layer and its BatchNorm or activation."""
    absorbed = ABSORBED.get(subject.target.runtime.name, ABSORBED["onnxruntime"])
    for node in _nodes(subject, Q):
        source = producer(given(node, 0), *LAYERS, "BatchNormalization")
        followers = [user for pair in readers(node.outputs[0]) for user in readers(pair.outputs[0])]
        if source is None or not followers or not all(_is_absorbed(user, followers, absorbed) for user in followers):
            continue
        why = f"stands between {title(source)} and {title(followers[0])}, which are one kernel without it"
        remedy = "quantize behind the activation, not before it"
        yield Finding("warning", "pairs_inside_a_fusion", title(node), why, remedy)


def surplus_pairs(subject: LintedModel) -> Iterator[Finding]:
    """Q/DQ pairs change nothing, or stand before operators that compute in float anyway."""
    for node in _nodes(subject, Q):
        before = producer(given(node, 0), DQ)
        if before is not None and _parameters(before) == _parameters(node):
            why = "quantizes what was just dequantized, with the same scale: two steps for nothing"
            severity: Severity = "warning" if subject.is_tensorrt else "note"  # onnxruntime removes the two itself
            yield Finding(severity, "surplus_pairs", title(node), why, "remove the two and read the quantized tensor")
        for other in readers(node.inputs[0]) if node.inputs[0] is not None else []:
            if other is node:
                break
            if other.op_type == Q and _parameters(other) == _parameters(node):
                why = f"quantizes the tensor that {title(other)} quantizes, with the same scale"
                yield Finding("warning", "surplus_pairs", title(node), why, "let all readers share one pair")
                break
        users = [user for pair in readers(node.outputs[0]) if pair.op_type == DQ for user in readers(pair.outputs[0])]
        if users and all(user.op_type in FLOAT_ONLY for user in users):
            why = f"only {', '.join(sorted({user.op_type for user in users}))} reads it, which no runtime computes in int8"
            remedy = "remove the pair: it costs a conversion, accuracy and a fusion"
            yield Finding("warning", "surplus_pairs", title(node), why, remedy)


def few_channels(subject: LintedModel) -> Iterator[Finding]:
    """A layer has fewer than 16 channels, the step of TensorRT's int8 kernels."""
    for node in _nodes(subject, *LAYERS):
        dequantize = producer(given(node, 1), DQ)
        shape = sizes(dequantize.inputs[0]) if dequantize is not None and _is_stored(dequantize) else None
        if shape is None or len(shape) < 2:
            continue
        groups = node.attributes.get_int("group", 1)
        if node.op_type in ("Conv", "ConvTranspose"):
            inner, outer = (shape[1] * groups, shape[0]) if node.op_type == "Conv" else (shape[0], shape[1] * groups)
        else:
            inner, outer = shape[:-3:-1] if node.attributes.get_int("transB", 0) else shape[-2:]
        if min(inner, outer) < FEWEST_CHANNELS:
            # A convolution that is wide on one side still gains; NVIDIA's quantizer and edgekd's schemes quantize it.
            one_side = node.op_type in ("Conv", "ConvTranspose") and max(inner, outer) >= FEWEST_CHANNELS
            where = f"{inner} channels in and {outer} out" if one_side else f"fewer than {FEWEST_CHANNELS} channels"
            why = f"int8 with {where}: its kernels run partly empty"
            remedy = "measure it in fp16 too, or widen it to a multiple of 16"
            yield Finding("note" if one_side else "warning", "few_channels", title(node), why, remedy)


def _nodes(subject: LintedModel, *op_types: str) -> Iterator[ir.Node]:
    return (node for node in subject.nodes if node.op_type in op_types and node.domain == "")


def _is_int32(node: ir.Node) -> bool:
    stored = given(node, 0)
    return node.op_type == DQ and stored is not None and stored.dtype == ir.DataType.INT32


def _is_stored(dequantize: ir.Node) -> bool:
    """Whether a DequantizeLinear reads a weight, stored as integers or as floats with a Q before the DQ."""
    stored = given(dequantize, 0)
    quantize = producer(stored, Q)
    return array(given(quantize, 0) if quantize is not None else stored) is not None


def _output_channels(node: ir.Node) -> int:
    """The number of output channels of a weight, or 0 if the weight takes a single scale.

    Grouped transposed convolutions and batched products take a single scale.
    """
    shape = sizes(given(node, 1))
    if shape is None:
        return 0
    match node.op_type:
        case "Conv":
            return shape[0]
        case "ConvTranspose":
            return shape[1] if node.attributes.get_int("group", 1) == 1 else 0
        case "Gemm":
            return shape[0 if node.attributes.get_int("transB", 0) else 1]
    return shape[1] if len(shape) == 2 else 0


def _layer_behind(value: ir.Value | None) -> ir.Node | None:
    """The layer that a value comes from, found through the operators fused to the layer."""
    node = producer(value)
    while node is not None and node.op_type not in LAYERS:
        node = producer(given(node, 0)) if node.op_type in ("BatchNormalization", Q, DQ, *ACTIVATIONS) else None
    return node


def _is_absorbed(user: ir.Node, followers: list[ir.Node], absorbed: tuple[str, ...]) -> bool:
    if user.op_type == "Mul":  # x * sigmoid(x): both operators read the pair
        return any(gate.outputs[0] in user.inputs for gate in followers if gate.op_type in absorbed)
    return user.op_type in absorbed


def _parameters(node: ir.Node) -> tuple[object, ...] | None:
    """Scale, zero-point and axis for comparison. A computed scale equals nothing."""
    scale, zero_point = array(given(node, 1)), array(given(node, 2))
    if scale is None:
        return (object(),)
    zeros = (0.0,) if zero_point is None else tuple(zero_point.astype(np.float64).ravel().tolist())
    return (*scale.astype(np.float64).ravel().tolist(), "|", *zeros, scale.ndim and node.attributes.get_int("axis", 1))
