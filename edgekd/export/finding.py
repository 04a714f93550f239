"""Finding: what lint says of a node; LintedModel: what its rules look at, with the few questions that they ask of a graph."""

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
"""The operators that cost: what is quantized, and what the other rules speak of."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """error: the runtime refuses it or computes something else; warning: it costs speed or accuracy; note: good to know."""

    severity: Severity
    rule: str
    node: str
    why: str
    remedy: str


@dataclass(frozen=True)
class LintedModel:
    """What a rule looks at. `samples` are arrays by input name, `dla` says that the engine is meant for the DLA."""

    path: Path
    model: ir.Model
    target: Target
    samples: Mapping[str, NDArray[Any]] | None = None
    dla: bool = False

    @property
    def nodes(self) -> Iterator[ir.Node]:
        """All nodes, those of subgraphs too."""
        return self.model.graph.all_nodes()

    @property
    def is_tensorrt(self) -> bool:
        return self.target.runtime.name == "tensorrt"

    @property
    def runtime(self) -> str:
        """The target's runtime in words."""
        return runtime_title(self.target)


def runtime_title(target: Target) -> str:
    """`TensorRT 10.3.0`."""
    names = {"tensorrt": "TensorRT", "qnn": "QNN"}
    return f"{names.get(target.runtime.name, target.runtime.name)} {target.runtime.version or ''}".strip()


Rule = Callable[[LintedModel], Iterator[Finding]]


def title(node: ir.Node) -> str:
    """How a node is called: by its name, else by its operator and what it gives."""
    return node.name or f"{node.op_type} -> {node.outputs[0].name}"


def given(node: ir.Node, index: int) -> ir.Value | None:
    """The node's input, None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def array(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant's values; None for a tensor that depends on the input."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value, where it is one of these operators (none named: any)."""
    node = value.producer() if value is not None else None
    return node if node is not None and (not op_types or node.op_type in op_types) else None


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value."""
    return [node for node, _ in value.uses()]


def sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape, -1 for a free dimension; None where it is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else -1 for size in value.shape)
