"""What each layer's quantization alone costs, and which operators a scheme leaves in float."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekd.quantize.constants import is_constant
from edgekd.quantize.layers import layers_of
from edgekd.quantize.operators import TRANSPOSED
from edgekd.quantize.qat import in_float, quantizer_of
from edgekd.quantize.same import MASKED
from edgekd.quantize.scheme import ACTIVATIONS, OPERATORS, WHY_FLOAT
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
    """A layer: the mean KL(float ‖ quantized) of the model's answers where it alone is quantized, and its multiplications
    for one sample."""

    layer: str
    divergence: float
    multiplications: int


@dataclass(frozen=True)
class FloatOperator:
    """An operator that computes in float: in how many places, its share of all values, and why."""

    operator: str
    nodes: int
    share: float
    why: str

    def __str__(self) -> str:
        places = f" in {self.nodes} places" if self.nodes > 1 else ""
        share = f"{self.share:.1%}" if self.share >= 0.001 else "less than 0.1%"
        return f"{self.operator} stays in float{places}: {self.why}; {share} of all values"


def sensitivities(prepared: GraphModule, batches: Sequence[Tensor], task: Task) -> list[Sensitivity]:
    """Of each layer of a calibrated graph, the most sensitive first; `batches` float `[batch, C, H, W]`, no labels. Of several
    tasks `task` counts, whose outputs come first."""
    found = []
    with torch.no_grad(), in_float(prepared):
        expected = torch.cat([prepared(batch)[:, : task.outputs] for batch in batches])
        for layer in layers_of(prepared):
            for quantizer in layer.quantizers:
                quantizer.enable_fake_quant(True)
            answers = torch.cat([prepared(batch)[:, : task.outputs] for batch in batches])
            for quantizer in layer.quantizers:
                quantizer.enable_fake_quant(False)
            divergence = float(task.divergence(expected, answers))
            found.append(Sensitivity(layer.name, max(0.0, divergence), layer.multiplications))
    return sorted(found, key=lambda layer: -layer.divergence)


def float_operators(prepared: GraphModule) -> list[FloatOperator]:
    """The operators of a prepared graph that the scheme has no rule for, the most costly first.

    What only follows an operator that has one (a ReLU, a pool, a sum) is none; nor is what a scale lies beside, but for a
    transposed convolution with a float weight.
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
    value: Tensor = node.meta["val"]
    return int(value[0].numel()) if value.dim() > 1 else 0


def _name(node: Node) -> str:
    if node.target is operator.getitem:  # one of several results, as of a split
        return _name(node.args[0])  # type: ignore[arg-type]
    return str(node.target).removeprefix("aten.").partition(".")[0]
