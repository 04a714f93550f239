"""The cost of quantizing each layer alone, and the operators that a scheme leaves in float."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekd.errors import QuantizationError
from edgekd.models.trace import Batch
from edgekd.quantize.arguments import arguments
from edgekd.quantize.constants import is_constant
from edgekd.quantize.layers import layers_of
from edgekd.quantize.operators import TRANSPOSED
from edgekd.quantize.qat import in_float, quantizer_of
from edgekd.quantize.same import MASKED
from edgekd.quantize.scheme import ACTIVATIONS, OPERATORS, WHY_FLOAT
from edgekd.quantize.sizes import numbers_of_one_sample
from edgekd.tasks.protocol import Task

FOLLOWERS = {
    target
    for targets in (
        *ACTIVATIONS.values(),
        *(OPERATORS[name] for name in ("move", "max_pool", "avg_pool", "add", "concat")),
    )
    for target in targets
}


@dataclass(frozen=True)
class Sensitivity:
    """A layer's sensitivity: mean KL(float ‖ quantized) of the answers if only this layer is quantized.

    `multiplications` counts those for one sample.
    """

    layer: str
    divergence: float
    multiplications: int


@dataclass(frozen=True)
class FloatOperator:
    """An operator that computes in float: number of places, share of all values, and reason."""

    operator: str
    nodes: int
    share: float
    why: str

    def __str__(self) -> str:
        places = f" in {self.nodes} places" if self.nodes > 1 else ""
        share = f"{self.share:.1%}" if self.share >= 0.001 else "less than 0.1%"
        return f"{self.operator} stays in float{places}: {self.why}; {share} of all values"


def sensitivities(prepared: GraphModule, batches: Sequence[Batch], task: Task) -> list[Sensitivity]:
    """The sensitivity of each layer of a calibrated graph, the most sensitive layer first.

    `batches` are samples without labels, the model's argument `[batch, ...]` or the tuple of its arguments. With several
    tasks only `task` counts; its outputs come first, in a tuple or on the last axis. In answers `[batch, ..., outputs]` each place is a
    row; of maps `[batch, outputs, h, w]` some pixels are (`Task.rows`). Raises QuantizationError if a batch does not fit
    the model's arguments or an answer has fewer outputs than the task.
    """
    found = []
    with torch.no_grad(), in_float(prepared):
        expected = _rows(prepared, batches, task)
        for layer in layers_of(prepared):
            for quantizer in layer.quantizers:
                quantizer.enable_fake_quant(True)
            answers = _rows(prepared, batches, task)
            for quantizer in layer.quantizers:
                quantizer.enable_fake_quant(False)
            divergence = float(task.divergence(expected, answers))
            found.append(Sensitivity(layer.name, max(0.0, divergence), layer.multiplications))
    return sorted(found, key=lambda layer: -layer.divergence)


def _rows(prepared: GraphModule, batches: Sequence[Batch], task: Task) -> Tensor:
    """The answers to all samples, `[rows, outputs]`."""
    rows = []
    for number, batch in enumerate(batches):
        answers = prepared(*arguments(prepared, batch, number))
        answers = answers[0] if isinstance(answers, tuple) else answers  # the first task's
        if isinstance(answers, Tensor) and list(answers.shape[1:]) == list(task.shape):
            answers = task.rows.kept(answers, np.arange(len(answers)), 0)
        if not isinstance(answers, Tensor) or answers.dim() < 2 or answers.shape[-1] < task.outputs:
            gives = list(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
            raise QuantizationError(
                f"the model gives {gives}; the task reads {task.outputs} numbers of the last axis of one tensor"
            )
        rows.append(answers[..., : task.outputs].reshape(-1, task.outputs))
    return torch.cat(rows)


def float_operators(prepared: GraphModule) -> list[FloatOperator]:
    """The operators of a prepared graph without a rule in the scheme, the most costly first.

    An operator that only follows one with a rule (a ReLU, a pool, a sum) is not listed. An operator beside a scale is not
    listed either, except a transposed convolution with a float weight.
    """
    computed = [
        node
        for node in prepared.graph.nodes
        if node.op == "call_function" and not is_constant(node) and isinstance(node.meta.get("val"), Tensor)
    ]
    values = {node: _values(node) for node in computed}
    alone = [
        node
        for node in computed
        if (node.target in TRANSPOSED and quantizer_of(prepared, node.args[1]) is None)
        or MASKED in node.meta
        or (node.target not in FOLLOWERS and not _touches_a_scale(prepared, node))
    ]
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in alone:
        groups.setdefault((_name(node), node.meta.get(WHY_FLOAT, "no scale lies beside it")), []).append(node)
    total = max(1, sum(values.values()))
    found = [
        FloatOperator(name, len(nodes), sum(values[node] for node in nodes) / total, why)
        for (name, why), nodes in groups.items()
    ]
    return sorted(found, key=lambda operator: (-operator.share, operator.operator))


def _touches_a_scale(prepared: GraphModule, node: Node) -> bool:
    return any(quantizer_of(prepared, other) is not None for other in (*node.all_input_nodes, *node.users))


def _values(node: Node) -> int:
    return numbers_of_one_sample(node) if node.meta["val"].dim() > 1 else 0


def _name(node: Node) -> str:
    if node.target is operator.getitem:  # one of several results, as of a split
        return _name(node.args[0])  # type: ignore[arg-type]
    return str(node.target).removeprefix("aten.").partition(".")[0]
