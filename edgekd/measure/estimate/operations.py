"""count: counts an ONNX node's operations by its operator's definition, or returns None if it cannot.

A multiply-add counts two. Sources of the formulas: the operators' definitions in the ONNX specification and, for the domain
com.microsoft, in onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

Shape = tuple[int, ...]
POOLS = frozenset(
    ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2")
)
MOVES = frozenset(
    ("Concat", "Transpose", "Slice", "Split", "Resize", "Pad", "Gather", "Tile", "Expand", "DepthToSpace", "SpaceToDepth")
)  # fmt: skip
TAKERS = frozenset(("Gather", "Slice", "GatherElements", "GatherND"))
"""Operators that read only the elements of their first input that they return."""
# The positions of an integer product's two factors among its inputs.
FACTORS = {"QLinearConv": (0, 3), "QLinearMatMul": (0, 3), "QGemm": (0, 3)}
CONVOLUTIONS = frozenset(("Conv", "FusedConv", "QLinearConv", "ConvInteger", "DeformConv"))
MATRIX = frozenset(("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "QGemm", "FusedGemm"))
ATTENTION = frozenset(("Attention", "MultiHeadAttention"))
RECURRENT = {"RNN": 1, "GRU": 3, "LSTM": 4}
PRODUCTS = CONVOLUTIONS | MATRIX | ATTENTION | RECURRENT.keys() | {"ConvTranspose", "Einsum", "MatMulNBits"}
# Standard operators whose work depends on the data, or differs from an operation for each element.
WITHOUT_RULE = frozenset(
    ("NonMaxSuppression", "DFT", "STFT", "Det", "TfIdfVectorizer", "StringNormalizer", "RegexFullMatch", "StringSplit",
     "StringConcat", "ImageDecoder", "SequenceMap", "Optional", "LinearAttention")
)  # fmt: skip
# Operators of the domain com.microsoft that are products or cost an operation for each element.
CONTRIBUTED = frozenset(
    ("FusedConv", "FusedMatMul", "FusedGemm", "QGemm", "MatMulNBits", "MultiHeadAttention", "QLinearAdd", "QLinearMul",
     "QLinearSigmoid", "QLinearLeakyRelu", "QLinearConcat", "QLinearAveragePool", "QLinearGlobalAveragePool", "Gelu",
     "FastGelu", "BiasGelu", "QuickGelu", "BiasSplitGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
     "DynamicQuantizeMatMul", "NhwcMaxPool", "QLinearSoftmax")
)  # fmt: skip


def has_rule(node: onnx.NodeProto) -> bool:
    """Whether `count` knows the operator."""
    if node.domain in ("", "ai.onnx"):
        return node.op_type not in WITHOUT_RULE and not node.op_type.startswith("Sequence")
    return node.domain == "com.microsoft" and node.op_type in CONTRIBUTED - {"DynamicQuantizeMatMul"}


def factors(node: onnx.NodeProto) -> tuple[str, str]:
    """The names of a product's two factors. A missing factor has the name ''."""
    first, second = FACTORS.get(node.op_type, (0, 1))
    names = [*node.input, "", "", "", ""]
    return names[first], names[second]


def count(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """The operations of a node, or None without a rule or shape. `shapes` are those of its inputs and outputs by name."""
    if not has_rule(node):
        return None
    try:
        if node.op_type in PRODUCTS:
            return 2 * products(node, shapes)
        if node.op_type in MOVES:
            return 0
        pools = node.op_type in ("MaxPool", "AveragePool", "QLinearAveragePool", "NhwcMaxPool")
        area = math.prod(integers(node, "kernel_shape")) if pools else 1
        reads = node.op_type in POOLS and area == 1
        return area * math.prod(shapes[node.input[0] if reads else next(name for name in node.output if name)])
    except (KeyError, IndexError):
        return None


def products(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """The multiply-adds of a product. Raises KeyError or IndexError if a shape is unknown or of another rank."""
    left, right = (shapes.get(name) for name in factors(node))
    output = shapes.get(node.output[0])
    if node.op_type == "Einsum":
        return _einsum(text(node, "equation"), [shapes[name] for name in node.input])
    if node.op_type in ATTENTION:
        return _attention(node, shapes)
    if left is None or (right is None and node.op_type != "MatMulNBits"):
        raise KeyError(node.op_type)
    right = right or ()
    if node.op_type in RECURRENT:
        return left[0] * left[1] * (math.prod(right) + math.prod(shapes[node.input[2]]))
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if output is None:
        raise KeyError(node.output[0])
    if node.op_type in CONVOLUTIONS:
        return math.prod(output) * math.prod(right[1:])
    if node.op_type == "MatMulNBits":
        return math.prod(output) * left[-1]
    return math.prod(output) * left[-2 if integer(node, "transA", 0) and len(left) > 1 else -1]


def _attention(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """The multiply-adds of the scores and of the weighted values.

    Heads are the second of four axes, or part of the last of three.
    """
    query, key, value = (shapes[name] for name in node.input[:3])
    past = shapes[node.input[4]][-2] if node.op_type == "Attention" and len(node.input) > 4 and node.input[4] else 0
    if len(query) == 4:
        keys = key[2] + past
        return math.prod(query) * keys + math.prod(query[:3]) * keys * value[3]
    batch, length, width = query
    heads = (
        (integer(node, "q_num_heads", 1), integer(node, "kv_num_heads", 1)) if node.op_type == "Attention" else (1, 1)
    )
    keys = key[1] + past
    return batch * length * keys * (width + value[2] * heads[0] // heads[1])


def _einsum(equation: str, operands: Sequence[Shape]) -> int:
    """The multiply-adds of an einsum, two operands at a time from left to right.

    A pair costs the product of all its sizes.
    """
    left, _, right = equation.replace(" ", "").partition("->")
    terms = [_labels(term, len(shape)) for term, shape in zip(left.split(","), operands, strict=True)]
    size: dict[str, int] = {}
    for term, shape in zip(terms, operands, strict=True):
        for label, n in zip(term, shape, strict=True):
            size[label] = max(n, size.get(label, 1))
    every = [label for term in terms for label in term]
    kept = (
        set(_labels(right, len(right))) if "->" in equation else {label for label in every if every.count(label) == 1}
    )
    kept |= {label for label in every if label.isdigit()}
    done, total = set(terms[0]), 0
    for at, term in enumerate(terms[1:], 1):
        pair = done | set(term)
        total += math.prod(size[label] for label in pair)
        later = {label for other in terms[at + 1 :] for label in other}
        done = pair & (kept | later)
    return total


def _labels(term: str, rank: int) -> list[str]:
    """A term's labels. The axes of an ellipsis are numbers, counted from the right."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(str(i) for i in range(hidden, 0, -1)), *after]


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def integers(node: onnx.NodeProto, name: str) -> Sequence[int]:
    return next((attribute.ints for attribute in node.attribute if attribute.name == name), ())


def text(node: onnx.NodeProto, name: str) -> str:
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == name), "")
