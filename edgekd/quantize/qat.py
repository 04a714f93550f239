"""Quantization-aware training: fake-quantizers, and the switches that a training loop needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgekd.quantize.capture import aten, is_constant
from edgekd.quantize.pt2e import (
    FakeQuantizeBase,
    FusedMovingAvgObsFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)


class FakeQuantizer(FusedMovingAvgObsFakeQuantize):  # type: ignore[misc]
    """torchao's fused one, converted with the very scale that it was trained with.

    Its kernel and the observer's Python compute a scale from the same range in two ways, 0.4 % apart for symmetric
    int8: a model converted with the other one answers differently than the model that was trained.
    """

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return self.scale, self.zero_point

    def settle(self) -> None:
        """Takes the scale from the range that was observed; while fake-quantization is off the kernel does not."""
        scale, zero_point = self.activation_post_process.calculate_qparams()
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)


def fake_quantizer(dtype: torch.dtype, symmetric: bool, per_channel: bool) -> Any:
    """Activations by a moving average of their extremes; weights, which are all known, by their present ones."""
    if per_channel:
        return FakeQuantizer.with_args(
            observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0, eps=2**-20
        )
    return FakeQuantizer.with_args(observer=MovingAverageMinMaxObserver, averaging_constant=0.01, eps=2**-20)


def train_mode(prepared: GraphModule) -> GraphModule:
    """Dropout drops, a BatchNorm that no convolution absorbed takes its batch's statistics, ranges follow the data."""
    _set_training(prepared, True)
    _switch(prepared, observe=not prepared.meta.get("observers_frozen", False), quantize=True)
    for fake_quantizer in _activation_quantizers(prepared, of_inputs=True):
        # Calibration has settled an image's range: pixels do not drift as activations do.
        observer = fake_quantizer.activation_post_process
        if bool(observer.min_val < observer.max_val):
            fake_quantizer.enable_observer(False)
    return prepared


def eval_mode(prepared: GraphModule) -> GraphModule:
    """The model as it will ship: no forward pass changes it."""
    _set_training(prepared, False)
    _switch(prepared, observe=False, quantize=True)
    return prepared


def watch(prepared: GraphModule) -> None:
    """Evaluation in float while the ranges follow the data: calibration."""
    _set_training(prepared, False)
    _switch(prepared, observe=True, quantize=False)


def freeze_observers(prepared: GraphModule) -> GraphModule:
    """Keeps the activations' ranges from now on, in training too; for the last part of the training."""
    prepared.meta["observers_frozen"] = True
    for fake_quantizer in _activation_quantizers(prepared):
        fake_quantizer.enable_observer(False)
    return prepared


def freeze_bn(prepared: GraphModule) -> GraphModule:
    """Keeps the statistics of the BatchNorms that no convolution absorbed; those of the others are always kept."""
    prepared.meta["bn_frozen"] = True
    _set_training(prepared, prepared.meta.get("training", False))
    return prepared


def _set_training(prepared: GraphModule, training: bool) -> None:
    prepared.meta["training"] = training
    for node in prepared.graph.nodes:
        if node.target is aten.dropout.default:
            node.args = (*node.args[:2], training)
        elif node.target is aten.batch_norm.default:
            learns = training and not prepared.meta.get("bn_frozen", False)
            node.args = (*node.args[:5], learns, *node.args[6:])
    prepared.recompile()


def _switch(prepared: GraphModule, *, observe: bool, quantize: bool) -> None:
    for fake_quantizer in _activation_quantizers(prepared):
        fake_quantizer.enable_observer(observe)
        fake_quantizer.enable_fake_quant(quantize)


def _activation_quantizers(prepared: GraphModule, *, of_inputs: bool = False) -> list[Any]:
    """The fake-quantizers of activations; a graph for calibration only has none. Weights' always follow the weights."""
    modules = [
        prepared.get_submodule(str(node.target))
        for node in prepared.graph.nodes
        if node.op == "call_module"
        and not is_constant(node.args[0])
        and (node.args[0].op == "placeholder" or not of_inputs)
    ]
    return [module for module in modules if isinstance(module, FakeQuantizeBase)]
