"""lint: what would keep an ONNX file from running fast, or at all, on a target; each finding with its remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnxscript import ir
from onnxscript.ir.passes import common

from edgekd.base.external_data import check_external_data
from edgekd.errors import DataError, ModelError
from edgekd.export import lint_placement as placement
from edgekd.export import lint_range as ranges
from edgekd.export import lint_restrictions as restrictions
from edgekd.export import lint_runtime as runtime
from edgekd.export import lint_values as values
from edgekd.export.finding import SEVERITIES, Finding, LintedModel, Rule, runtime_title
from edgekd.export.shapes import tell_sizes
from edgekd.target import Target

__all__ = ["Finding", "counted", "grouped", "lines", "lint", "listed", "runtime_title"]

EVERYWHERE: tuple[Rule, ...] = (
    runtime.memory,
    runtime.opsets,
    runtime.precisions,
    values.scales,
    placement.per_tensor_weights,
    placement.half_quantized_layers,
    placement.unquantized_skips,
    placement.pairs_inside_a_fusion,
    placement.surplus_pairs,
)
RULES: Mapping[str, tuple[Rule, ...]] = {
    "tensorrt": (
        placement.zero_points,
        placement.int32_biases,
        runtime.tensorrt_operators,
        runtime.tensorrt_types,
        restrictions.tensorrt_restrictions,
        values.branch_ranks,
        *EVERYWHERE,
        placement.few_channels,
        runtime.fp32_layers,
        ranges.fp16_constants,
        ranges.fp16_values,
        runtime.dynamic_shapes_on_a_dla,
    ),
    "onnxruntime": (runtime.onnxruntime_operators, *EVERYWHERE, ranges.fp16_constants, ranges.fp16_values),
    "qnn": (runtime.unlisted_operators, *EVERYWHERE),
}


def lint(
    path: str | os.PathLike[str],
    target: Target,
    *,
    samples: Mapping[str, NDArray[Any]] | str | os.PathLike[str] | None = None,
    dla: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[Finding]:
    """What is wrong with an ONNX file on `target`, errors first.

    `samples` are run through the model for the values that fp16 could not hold: arrays `[n, ...]` by input name, or an
    .npz of these, or an .npy for a model with one input. `dla`: the engine is meant for the target's DLA. `shapes`: sizes of
    inputs that the file leaves free, by name.

    Raises ModelError for a file that is no valid ONNX or has no such sizes, DataError for samples that the model does not take.
    """
    path = Path(path)
    model = read_model(path, shapes)
    if isinstance(samples, str | os.PathLike):
        samples = read_samples(Path(samples), model)
    subject = LintedModel(path, model, target, samples, dla)
    found = [finding for rule in RULES[target.runtime.name] for finding in rule(subject)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def read_model(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> ir.Model:
    """The file with inferred shapes, its functions inlined and its constants as initializers."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} {what}; give an ONNX file")
    check_external_data(path)
    try:
        _check(path)
        model = ir.load(path)
        # A function's operators are what the runtime meets, and shapes are inferred through constants alone.
        for run in (common.InlinePass(), common.LiftConstantsToInitializersPass(True, size_limit=0)):
            run(model)
        if shapes:
            _tell(model, shapes, path)
        common.ShapeInferencePass()(model)
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                value.const_value.numpy()  # the checker does not count a constant's numbers
    except (
        *(onnx.checker.ValidationError, onnx.shape_inference.InferenceError),
        *(DecodeError, ValueError, RuntimeError),
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{path} is no valid ONNX: {reason[:300]}") from error
    return model


def _tell(model: ir.Model, shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Raises ModelError for sizes that the model does not have."""
    told = onnx.load(path, load_external_data=False)
    tell_sizes(told, shapes, path)
    for given, value in zip(told.graph.input, model.graph.inputs, strict=True):
        value.shape = ir.from_proto(given).shape
    for node in model.graph:
        for output in node.outputs if node.domain in ("", "ai.onnx") else ():
            output.shape = None  # they are inferred anew


def _check(path: Path) -> None:
    """The checker's word, but on a plugin of TensorRT in ONNX's own domain, which the checker calls no operator.

    Raises onnx.checker.ValidationError and onnx.shape_inference.InferenceError.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        if runtime.PLUGIN not in str(error):
            raise
        proto = onnx.load(path)
        for node in proto.graph.node:
            if node.domain in ("", "ai.onnx") and node.op_type.endswith(runtime.PLUGIN):
                node.domain = "trt.plugins"
        proto.opset_import.append(onnx.helper.make_opsetid("trt.plugins", 1))
        onnx.checker.check_model(proto, full_check=True)


def read_samples(path: Path, model: ir.Model) -> dict[str, NDArray[Any]]:
    """Samples by input name from an .npz (arrays named as the inputs), or from an .npy for a model with one input."""
    inputs = [str(value.name) for value in model.graph.inputs]
    try:
        content = np.load(path, allow_pickle=False)
        arrays = {} if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
    except Exception as error:  # numpy and zipfile raise whatever they stumble over, also for sizes that are not there
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path} cannot be read as .npy or .npz: {reason[:300]}") from error
    if isinstance(content, np.ndarray):
        if len(inputs) != 1:
            raise DataError(
                f"{path} holds one array, the model takes {', '.join(inputs)}; give an .npz with these names"
            )
        return {inputs[0]: content}
    return arrays


def grouped(findings: Sequence[Finding]) -> list[tuple[Finding, list[str]]]:
    """Findings that say the same of several nodes, once, with the nodes."""
    groups: dict[tuple[str, str, str], tuple[Finding, list[str]]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.why, finding.remedy), (finding, []))[1].append(finding.node)
    return list(groups.values())


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """For the terminal: severity, rule and nodes, then why and the remedy."""
    for finding, nodes in grouped(findings):
        yield f"{finding.severity:<8} {finding.rule}: {listed(nodes)}"
        yield f"         {finding.why}"
        yield f"         remedy: {finding.remedy}"


def listed(nodes: Sequence[str], most: int = 8) -> str:
    """The first nodes by name, and how many more there are."""
    more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(nodes[:most]) + more


def counted(findings: Sequence[Finding]) -> str:
    """`2 errors, 1 warning`; `nothing found`."""
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}
    return ", ".join(f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n) or "nothing found"
