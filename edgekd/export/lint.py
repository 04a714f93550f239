"""lint: finds the causes that would make an ONNX file slow or unusable on a target, each with a remedy."""

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
    "onnxruntime": (
        runtime.onnxruntime_operators,
        placement.bias_scales,
        *EVERYWHERE,
        ranges.fp16_constants,
        ranges.fp16_values,
    ),
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
    """The findings for an ONNX file on `target`, errors first.

    `samples` are run through the model to find values beyond the range of fp16: arrays `[n, ...]` by input name, an .npz of
    these, or an .npy for a model with one input. `dla`: the engine is meant for the target's DLA. `shapes`: sizes, by name,
    of inputs that the file leaves free. Raises ModelError if the file is not valid ONNX or cannot have these sizes. Raises
    DataError if the model does not take the samples.
    """
    path = Path(path)
    model = read_model(path, shapes)
    if isinstance(samples, str | os.PathLike):
        samples = read_samples(Path(samples), model)
    subject = LintedModel(path, model, target, samples, dla)
    found = [finding for rule in RULES[target.runtime.name] for finding in rule(subject)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def read_model(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> ir.Model:
    """The model of a file, with inferred shapes, inlined functions and constants as initializers. Raises ModelError."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} {what}; give an ONNX file")
    check_external_data(path)
    try:
        _check(path)
        model = ir.load(path)
        # The runtime sees a function's operators, and shapes are inferred through constants alone.
        for run in (common.InlinePass(), common.LiftConstantsToInitializersPass(True, size_limit=0)):
            run(model)
        if shapes:
            _tell(model, shapes, path)
        common.ShapeInferencePass()(model)
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                value.const_value.numpy()  # fails if numbers are missing: the checker does not count them
    except (
        *(onnx.checker.ValidationError, onnx.shape_inference.InferenceError),
        *(DecodeError, ValueError, RuntimeError),
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{path} is no valid ONNX: {reason[:300]}") from error
    return model


def _tell(model: ir.Model, shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Sets free sizes of the inputs and clears the inferred shapes. Raises ModelError for sizes that the model cannot have."""
    told = onnx.load(path, load_external_data=False)
    tell_sizes(told, shapes, path)
    for given, value in zip(told.graph.input, model.graph.inputs, strict=True):
        value.shape = ir.from_proto(given).shape
    for node in model.graph:
        for output in node.outputs if node.domain in ("", "ai.onnx") else ():
            output.shape = None  # inferred again afterwards


def _check(path: Path) -> None:
    """Runs the ONNX checker on a file, and accepts TensorRT's plugins in ONNX's own domain.

    The checker does not know these plugins. Raises onnx.checker.ValidationError and onnx.shape_inference.InferenceError.
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
    """Samples by input name, from an .npz or, for a model with one input, from an .npy.

    The arrays of an .npz are named as the inputs. Raises DataError.
    """
    inputs = [str(value.name) for value in model.graph.inputs]
    try:
        content = np.load(path, allow_pickle=False)
        arrays = {} if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
    except Exception as error:  # a damaged file makes numpy and zipfile raise errors of many kinds
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
    """Findings with the same text, grouped: each group has one finding and its nodes."""
    groups: dict[tuple[str, str, str], tuple[Finding, list[str]]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.why, finding.remedy), (finding, []))[1].append(finding.node)
    return list(groups.values())


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The terminal's lines: severity, rule and nodes, then reason and remedy."""
    for finding, nodes in grouped(findings):
        yield f"{finding.severity:<8} {finding.rule}: {listed(nodes)}"
        yield f"         {finding.why}"
        yield f"         remedy: {finding.remedy}"


def listed(nodes: Sequence[str], most: int = 8) -> str:
    """The names of the first nodes, and the number of further nodes."""
    more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(nodes[:most]) + more


def counted(findings: Sequence[Finding]) -> str:
    """The number of findings by severity, e.g. `2 errors, 1 warning`, or `nothing found`."""
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}
    return ", ".join(f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n) or "nothing found"
