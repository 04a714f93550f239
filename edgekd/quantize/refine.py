"""refine: what comes after calibration, layer by layer: AdaRound, then bias correction.

Two runs of the same graph go side by side over the calibration samples, one in float, one as it will ship. At each layer
the second is given its better weights and biases before it goes on, so every layer sees what is wrong in those before it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgekd.quantize.adaround import round_weight
from edgekd.quantize.bias import round_bias
from edgekd.quantize.bias_correction import correct_bias
from edgekd.quantize.constants import evaluate
from edgekd.quantize.layers import Layer, layers_of
from edgekd.quantize.operators import aten
from edgekd.quantize.qat import FakeQuantizer

MEMORY = 2 * 2**30  # bytes that the activations of both runs may take: of large images fewer are taken
ALIVE = 6  # tensors of the largest size that are needed at once: an input, an output and a skip, in both runs


def refine(prepared: GraphModule, batches: Sequence[Tensor], steps: Collection[str]) -> None:
    """Refines a calibrated graph in place by `steps`, of "adaround" and "bias_correction".

    `batches` are real samples, float `[batch, C, H, W]`.
    """
    if not {"adaround", "bias_correction"} & set(steps):
        return
    layers = {layer.node: layer for layer in layers_of(prepared)}
    batches = _affordable(prepared, batches)
    with torch.no_grad():
        in_float, shipped = ([_Run(prepared, batch, quantized) for batch in batches] for quantized in (False, True))
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
        axis = -1 if node.target is aten.linear.default else 1
        outputs = [run.env[node] for run in in_float], [run.run_node(node) for run in shipped]
        correct_bias(layer.bias, *outputs, channels=axis)
        bias = evaluate(layer.graph, node.args[2])  # type: ignore[arg-type]
        for run in shipped:
            run.env[node.args[2]] = bias  # type: ignore[index]


class _Run(Interpreter):
    """One batch on its way through the graph; a node that was computed is not computed again in float."""

    def __init__(self, prepared: GraphModule, batch: Tensor, quantized: bool) -> None:
        super().__init__(prepared)
        self.args_iter = iter([batch])
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


def _affordable(prepared: GraphModule, batches: Sequence[Tensor]) -> Sequence[Tensor]:
    """The first batches, as many as fit into memory."""
    values = (node.meta.get("val") for node in prepared.graph.nodes)
    largest = max(value[0].numel() for value in values if isinstance(value, Tensor) and value.dim() > 1)
    samples = MEMORY // (ALIVE * 4 * largest)
    return batches[: max(1, samples // len(batches[0]))]
