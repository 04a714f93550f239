"""refine: improves a calibrated graph layer by layer, by AdaRound, then by bias correction.

Two runs of the same graph go over the calibration samples side by side: one in float, one as shipped. At each layer the
second run gets the improved weight and bias before it continues. Every layer thus sees the errors of the layers before it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgekd.models.trace import Batch
from edgekd.quantize.adaround import round_weight
from edgekd.quantize.arguments import arguments
from edgekd.quantize.bias import round_bias
from edgekd.quantize.bias_correction import correct_bias
from edgekd.quantize.constants import evaluate
from edgekd.quantize.layers import Layer, layers_of
from edgekd.quantize.qat import FakeQuantizer

MEMORY = 2 * 2**30  # bytes for the activations of both runs: fewer large images are used
ALIVE = 6  # tensors of the largest size held at once: an input, an output and a skip, in both runs


def refine(prepared: GraphModule, batches: Sequence[Batch], steps: Collection[str]) -> None:
    """Refines a calibrated graph in place by the named `steps`, of "adaround" and "bias_correction".

    `batches` are real samples, the model's argument `[batch, ...]` or the tuple of its arguments. Raises QuantizationError
    if a batch does not fit the model's arguments.
    """
    if not {"adaround", "bias_correction"} & set(steps):
        return
    layers = {layer.node: layer for layer in layers_of(prepared)}
    with torch.no_grad():
        given = _affordable(prepared, [arguments(prepared, batch, number) for number, batch in enumerate(batches)])
        in_float, shipped = ([_Run(prepared, batch, quantized) for batch in given] for quantized in (False, True))
        for node in prepared.graph.nodes:
            if node in layers:
                _refine(layers[node], in_float, shipped, steps)
            for run in (*in_float, *shipped):
                run.step(node)


def _refine(layer: Layer, in_float: Sequence[_Run], shipped: Sequence[_Run], steps: Collection[str]) -> None:
    node, source = layer.node, layer.node.args[0]
    inputs = [(a.env[source], b.env[source]) for a, b in zip(in_float, shipped, strict=True)]  # type: ignore[index]
    for run in in_float:  # before its weight changes
        run.step(node)
    if "adaround" in steps:
        round_weight(layer, inputs)
        weight = layer.quantizer(layer.weight)
        for run in shipped:
            run.env[node.args[1]] = weight  # type: ignore[index]
    if "bias_correction" in steps and layer.bias is not None:
        layer.bias.copy_(evaluate(layer.graph, node.args[2]))  # type: ignore[arg-type]  # rounded, where it ships so
        outputs = [run.env[node] for run in in_float], [run.run_node(node) for run in shipped]
        correct_bias(layer.bias, *outputs, channels=layer.channels)
        bias = evaluate(layer.graph, node.args[2])  # type: ignore[arg-type]
        for run in shipped:
            run.env[node.args[2]] = bias  # type: ignore[index]


class _Run(Interpreter):
    """The run of one batch through the graph. In float, a computed node is not computed again."""

    def __init__(self, prepared: GraphModule, batch: Sequence[Tensor], quantized: bool) -> None:
        super().__init__(prepared)
        self.args_iter = iter(batch)
        self.quantized = quantized

    def step(self, node: Node) -> None:
        if self.quantized or node not in self.env:
            self.env[node] = self.run_node(node)
        for read_last_here in self.user_to_last_uses.get(node, ()):
            self.env.pop(read_last_here, None)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if not self.quantized and target is round_bias:
            return args[0]
        return super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        if not self.quantized and isinstance(self.fetch_attr(target), FakeQuantizer):
            return args[0]
        return super().call_module(target, args, kwargs)


def _affordable(prepared: GraphModule, batches: Sequence[tuple[Tensor, ...]]) -> Sequence[tuple[Tensor, ...]]:
    """The first batches, as many as fit into memory, but at least one."""
    largest: dict[tuple[torch.Size, ...], int] = {}  # by the shapes of one sample: a longer text needs more memory
    room = MEMORY // (ALIVE * 4)
    for number, batch in enumerate(batches):
        one = tuple(x[:1] for x in batch)
        shapes = tuple(x.shape for x in one)
        if shapes not in largest:
            largest[shapes] = _Largest(prepared).of(one)
        room -= len(batch[0]) * largest[shapes]
        if room < 0:
            return batches[: max(1, number)]
    return batches


class _Largest(Interpreter):
    """An interpreter that finds the largest value of a graph."""

    numbers = 0

    def of(self, batch: tuple[Tensor, ...]) -> int:
        """Runs the graph, and returns the size of the largest value computed from the batch, in numbers."""
        self.run(*batch)
        return self.numbers

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "get_attr":
            self.numbers = max(self.numbers, value.numel())
        return value
