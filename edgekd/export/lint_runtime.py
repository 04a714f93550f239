"""Rules on a target's runtime: operators, element types, opset, DLA."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime
from onnxscript import ir

from edgekd.export.finding import LAYERS, Finding, LintedModel, Severity, array, producer, sizes, title
from edgekd.runtime.sessions import Ended, Refused, Session
from edgekd.target import version

TYPES = {
    ir.DataType.FLOAT: "FP32", ir.DataType.FLOAT16: "FP16", ir.DataType.BFLOAT16: "BF16", ir.DataType.INT32: "INT32",
    ir.DataType.INT64: "INT64", ir.DataType.BOOL: "BOOL", ir.DataType.UINT8: "UINT8",
}  # fmt: skip
# Element types: first TensorRT release (parser's change log), and least compute capability (TensorRT support matrix).
NEEDS = {
    ir.DataType.BFLOAT16: ("9.0", "8.0"),
    ir.DataType.FLOAT8E4M3FN: ("9.0", "8.9"),
    ir.DataType.INT4: ("10.0", "7.0"),
    ir.DataType.FLOAT4E2M1: ("10.8", "10.0"),
}
SHORT = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}
QUANTIZED = (ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN, ir.DataType.INT4, ir.DataType.FLOAT4E2M1)


PLUGIN = "_TRT"
"""The ending of the names of TensorRT's own plugins: EfficientNMS_TRT, BatchedNMS_TRT, ROIAlign_TRT."""


class Listed(NamedTuple):
    """The published operators of a release, each with its element types."""

    release: str
    max_opset: int
    types: dict[str, frozenset[str]]
    source: str


@cache
def published() -> tuple[tuple[Listed, ...], dict[str, str]]:
    """The published lists, oldest first, and the release that introduced an operator, where known."""
    document = tomllib.loads((Path(__file__).parent / "tensorrt_operators.toml").read_text())
    lists = []
    for entry in document["list"]:
        types = {name: frozenset(key.split()) for key, names in entry["operators"].items() for name in names.split()}
        lists.append(Listed(entry["release"], entry["max_opset"], types, f"{entry['source']}, {entry['date']}"))
    return tuple(lists), {key: value for key, value in document["since"].items() if key not in ("source", "date")}


def lists_around(release: str) -> tuple[Listed, Listed]:
    """The last list up to a release, and the first list from the release on.

    At the ends the oldest or newest list stands for a missing one.
    """
    lists, _ = published()
    at = max((i for i, listed in enumerate(lists) if version(listed.release) <= version(release)), default=0)
    exact = version(lists[at].release) == version(release)
    return lists[at], lists[at if exact else min(at + 1, len(lists) - 1)]


def memory(subject: LintedModel) -> Iterator[Finding]:
    """The weights need more memory than the largest variant of the device has."""
    stored = sum(value.const_value.nbytes for value in subject.model.graph.initializers.values() if value.const_value)
    if stored / 1e9 > (most := max(subject.target.hardware.ram_gb, default=float("inf"))):
        why = f"its weights take {stored / 1e9:.3g} GB, {subject.target.title} has {most:g} GB of memory"
        yield Finding("error", "memory", "the graph", why, "take a smaller model, or another target")


def opsets(subject: LintedModel) -> Iterator[Finding]:
    """The opset is too new for the target's runtime, or for another JetPack release of the board."""
    opset = subject.model.opset_imports.get("", 0)
    most = subject.target.runtime.max_opset
    remedy = "export with opset {0}, or convert: onnx.version_converter.convert_version(model, {0})"
    if opset > most:
        why = f"opset {opset}; {subject.runtime} on {subject.target.name} takes up to {most}"
        # a note for onnxruntime: onnxruntime_operators loads the model itself
        severity: Severity = "error" if subject.is_tensorrt else "note"
        yield Finding(severity, "opsets", "the graph", why, remedy.format(most))
    for jetpack in subject.target.jetpack[1:]:
        bound = lists_around(jetpack.tensorrt)[1].max_opset
        if most >= opset > bound:
            why = f"opset {opset}; on JetPack {jetpack.version} TensorRT {jetpack.tensorrt} takes up to {bound}"
            yield Finding("note", "opsets", "the graph", why, remedy.format(bound))


def precisions(subject: LintedModel) -> Iterator[Finding]:
    """The graph uses a precision that the target does not run."""
    runs = subject.target.runtime.precisions
    firsts: dict[str, ir.Node] = {}
    for node in subject.nodes:
        types = [value.dtype for value in node.outputs]
        for dtype, precision in SHORT.items():
            if dtype in types:
                firsts.setdefault(precision, node)
        if node.op_type == "QuantizeLinear":
            firsts.setdefault("int8", node)
    for precision, node in firsts.items():
        if precision not in runs and not (precision == "bf16" and subject.is_tensorrt):  # see tensorrt_types
            why = f"{precision} from here on; {subject.runtime} on {subject.target.name} runs {', '.join(runs)}"
            cost = "has no integer kernels" if precision == "int8" else "converts to fp32 and back around each operator"
            yield Finding("warning", "precisions", title(node), f"{why} and {cost}", f"export in {runs[0]}")


def fp32_layers(subject: LintedModel) -> Iterator[Finding]:
    """A layer is left in fp32 beside int8 or fp16, and TensorRT from release 10 on keeps the graph's types."""
    runtime = subject.target.runtime
    if "fp16" not in runtime.precisions or version(runtime.version or "10.15") < (10, 0):
        return
    nodes = list(subject.nodes)
    if not any(node.op_type == "QuantizeLinear" or node.outputs[0].dtype in SHORT for node in nodes):
        return
    for node in nodes:
        if node.op_type not in LAYERS or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        if not any(producer(value, "DequantizeLinear") for value in node.inputs[:2]):
            why = "left in fp32 in a graph that is int8, fp16 or bf16 elsewhere: strongly typed engines keep the graph's types"
            remedy = "convert the float layers to fp16, but for those whose values leave its range"
            yield Finding("warning", "fp32_layers", title(node), why, remedy)


def tensorrt_operators(subject: LintedModel) -> Iterator[Finding]:
    """The parser of the target's TensorRT does not list an operator."""
    release = subject.target.runtime.version or "10.15"
    below, above = lists_around(release)
    _, since = published()
    for node in subject.nodes:
        name = node.op_type
        if name.endswith(PLUGIN):
            why = f"{name} is a plugin of TensorRT, no ONNX operator: the engine builds where its library of plugins is loaded"
            remedy = f"see that TensorRT {release} has it (trtexec loads them itself); no other runtime runs this file"
            yield Finding("note", "tensorrt_operators", title(node), why, remedy)
        elif node.domain == "ai.onnx.ml":
            why = f"{name} is an operator of ONNX-ML (ai.onnx.ml), which TensorRT does not read"
            remedy = "compute it before or behind the engine, or export with standard operators"
            yield Finding("error", "tensorrt_operators", title(node), why, remedy)
        elif node.domain not in ("", "ai.onnx"):
            why = f"{node.domain}::{name} is no ONNX operator; TensorRT {release} reads it only with a plugin of that name"
            severity: Severity = "error" if node.domain.startswith("com.microsoft") else "warning"
            remedy = "export with standard operators, or load the plugin where the engine is built and run"
            yield Finding(severity, "tensorrt_operators", title(node), why, remedy)
        elif name in below.types or version(since.get(name, "999")) <= version(release):
            continue
        elif name in above.types and name not in since:
            why = f"{name} is listed for TensorRT {above.release} and not for {below.release}; {release} lies between"
            remedy = "build the engine early to find out, or write it with other operators"
            yield Finding("warning", "tensorrt_operators", title(node), why, remedy)
        else:
            first = f"; TensorRT {since[name]} brought it" if name in since else ""
            why = f"{name} is not among the operators that TensorRT {release} reads{first} ({below.source})"
            yield Finding("error", "tensorrt_operators", title(node), why, "write it with operators that are listed")


def tensorrt_types(subject: LintedModel) -> Iterator[Finding]:
    """TensorRT, the release, the GPU or the operator does not have an element type."""
    release = subject.target.runtime.version or "10.15"
    below, above = lists_around(release)
    for node in subject.nodes:
        # The lists mean the elements of ConstantOfShape's result, not its input, a shape.
        read = node.outputs[0] if node.op_type == "ConstantOfShape" else next(iter(node.inputs), None)
        kind = read.dtype if read is not None else None
        if kind is None or kind in QUANTIZED or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if kind == ir.DataType.DOUBLE:
            why = "computes in fp64, which TensorRT casts to fp32"
            yield Finding("warning", "tensorrt_types", title(node), why, "export in fp32, which it computes in anyway")
            continue
        name = TYPES.get(kind, kind.name)
        name = "INT32" if name == "INT64" and version(release) < (9, 0) else name  # there the parser casts INT64
        listed = below.types.get(node.op_type, frozenset()) | above.types.get(node.op_type, frozenset())
        if not listed or name in listed:
            continue
        why = f"{node.op_type} of {kind.name.lower()}; TensorRT {release} lists {', '.join(sorted(listed))} for it"
        remedy = "compute in one of these types"
        refused = kind not in TYPES
        if kind == ir.DataType.UINT8:
            why += ": uint8 is the type of inputs and outputs alone"
            remedy = "cast to float before it"
            refused = node.op_type not in ("Shape", "Size")  # these operators read no element
        yield Finding("error" if refused else "warning", "tensorrt_types", title(node), why, remedy)
    yield from _types_of_newer_gpus(subject, release)


def _types_of_newer_gpus(subject: LintedModel, release: str) -> Iterator[Finding]:
    capability = subject.target.hardware.compute_capability
    seen = set()
    for node in subject.nodes:
        for value in (*node.inputs, *node.outputs):
            kind = value.dtype if value is not None else None
            if kind not in NEEDS or kind in seen:
                continue
            seen.add(kind)
            first, least = NEEDS[kind]
            if version(release) < version(first):
                why = f"{kind.name} is unknown to TensorRT {release}; {first} brought it"
                yield Finding("error", "tensorrt_types", title(node), why, "use fp16 or int8")
            elif capability is not None and version(capability) < version(least):
                why = f"{kind.name} needs compute capability {least}, {subject.target.name} has {capability}"
                yield Finding("error", "tensorrt_types", title(node), why, "use fp16 or int8")


def unlisted_operators(subject: LintedModel) -> Iterator[Finding]:
    """No operator was checked: QNN publishes no list of operators by release that could be read here."""
    why = f"no operator was checked: edgekd has no list of what {subject.runtime} reads"
    yield Finding("note", "unlisted_operators", "the graph", why, "run it on the device: edgekd verify --device NAME")


def onnxruntime_operators(subject: LintedModel) -> Iterator[Finding]:
    """The installed onnxruntime refuses the graph. Each operator is then loaded alone to find the cause."""
    here = f"onnxruntime {onnxruntime.__version__}, CPU"
    reason = _refusal(str(subject.path))
    if reason is None:
        return
    alone: dict[tuple[object, ...], str | None] = {}  # onnxruntime's reason by operator and types
    for node in subject.nodes:
        types = [value.dtype for value in node.inputs if value is not None]
        key = (node.domain, node.op_type, *types)
        if key not in alone:
            model = _alone(subject.model, node)
            alone[key] = _refusal(model.SerializeToString()) if model is not None else None
        if (why := alone[key]) is not None:
            shown = ", ".join(kind.name.lower() for kind in types if kind is not None)
            why = f"{here} has no kernel for {node.op_type} of {shown}: {why}"
            remedy = "write it with other operators, or in another type"
            yield Finding("error", "onnxruntime_operators", title(node), why, remedy)
    if not any(alone.values()):
        yield Finding("error", "onnxruntime_operators", "the graph", f"{here} refuses it: {reason}", "see its message")


def _refusal(model: str | bytes) -> str | None:
    """onnxruntime's reason for refusing a model, or None if the model loads."""
    try:
        Session(model, optimise=False, log=4).close()
    except Ended as error:
        return str(error)
    except Refused as error:
        return " ".join(str(error).split(" : ", 3)[-1].split())[
            :200
        ]  # the text behind "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED"
    return None


def _alone(model: ir.Model, node: ir.Node) -> onnx.ModelProto | None:
    """A model of a single node, or None if a type is unknown or the node has subgraphs.

    Subgraphs read values of the graph around them.
    """
    subgraphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(attribute.type in subgraphs for attribute in node.attributes.values()):
        return None
    proto = ir.to_proto(node)
    given = {value.name: value for value in node.inputs if value is not None}
    if any(value.dtype is None for value in (*given.values(), *node.outputs) if value.name):
        return None
    constants = {name: values for name, value in given.items() if (values := array(value)) is not None}
    stored = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    free = [ir.to_proto(value) for name, value in given.items() if name not in constants]
    outputs = [ir.to_proto(value) for value in node.outputs if value.name]
    graph = onnx.helper.make_graph([proto], "alone", free, outputs, initializer=stored)
    imports = [onnx.helper.make_opsetid(domain, number) for domain, number in model.opset_imports.items()]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)


def dynamic_shapes_on_a_dla(subject: LintedModel) -> Iterator[Finding]:
    """The DLA takes static shapes only.

    A free batch can be fixed when the engine is built; other free dimensions cannot.
    """
    if (subject.target.hardware.dla or "none").startswith("none"):
        if subject.dla:
            why = f"{subject.target.name} has no DLA"
            yield Finding("error", "dynamic_shapes_on_a_dla", "the graph", why, "leave --dla out")
        return
    for value in subject.model.graph.inputs:
        free = [i for i, size in enumerate(sizes(value) or ()) if size < 0]
        if not free:
            continue
        inner = free != [0]
        severity: Severity = ("error" if inner else "warning") if subject.dla else "note"
        why = f"input {value.name} is {value.shape}: the DLA takes static shapes only"
        pinned = "export with a fixed batch, or build the engine for one batch size alone"
        remedy = "export with fixed sizes" if inner else pinned
        yield Finding(severity, "dynamic_shapes_on_a_dla", "the graph", why, remedy)
