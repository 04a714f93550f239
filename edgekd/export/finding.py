"""Finding: a lint result for a node. LintedModel: the input of lint's rules, with helpers that query a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnxscript import ir

from edgekd.target import Target

Severity = Literal["error", "warning", "note"]
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The costly operators, which are quantized."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """A lint result for a node.

    An error means that the runtime refuses the node or computes something else. A warning costs speed or accuracy. A note
    is good to know.
    """

    severity: Severity
    rule: str
    node: str
    why: str
    remedy: str


@dataclass(frozen=True)
class LintedModel:
    """The input of lint's rules: a model with its file and target.

    `samples` are arrays by input name. `dla` is true if the engine is meant for the DLA.
    """

    path: Path
    model: ir.Model
    target: Target
    samples: Mapping[str, NDArray[Any]] | None = None
    dla: bool = False

    @property
    def nodes(self) -> Iterator[ir.Node]:
        """All nodes, including those of subgraphs."""
        return self.model.graph.all_nodes()

    @property
    def is_tensorrt(self) -> bool:
        return self.target.runtime.name == "tensorrt"

    @property
    def runtime(self) -> str:
        """The target's runtime in words."""
        return runtime_title(self.target)


def runtime_title(target: Target) -> str:
    """A target's runtime in words, e.g. `TensorRT 10.3.0`."""
    names = {"tensorrt": "TensorRT", "qnn": "QNN"}
    return f"{names.get(target.runtime.name, target.runtime.name)} {target.runtime.version or ''}".strip()


Rule = Callable[[LintedModel], Iterator[Finding]]


def title(node: ir.Node) -> str:
    """A node's name, or its operator and first output if it has no name."""
    return node.name or f"{node.op_type} -> {node.outputs[0].name}"


def given(node: ir.Node, index: int) -> ir.Value | None:
    """The node's input at this index, or None if the input is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def array(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant's values; None for a tensor that depends on the input."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that computes a value, or None if its operator is not among `op_types` (empty: any operator)."""
    node = value.producer() if value is not None else None
    return node if node is not None and (not op_types or node.op_type in op_types) else None


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value."""
    return [node for node, _ in value.uses()]


def sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    """A value's shape with -1 for a free dimension, or None if the shape is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else -1 for size in value.shape)
