"""Fake-quantizers, which compute int8 in float, and their switches for calibration and the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekd.quantize.constants import is_constant
from edgekd.quantize.operators import aten
from edgekd.quantize.pt2e import (
    FakeQuantize,
    FakeQuantizeBase,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)


class FakeQuantizer(FakeQuantize):  # type: ignore[misc]
    """torchao's fake-quantizer with the scale of its observer, or with its last scale once the range is settled.

    torchao's fused kernel is not used. It derives the scale by another formula than the observer (128 levels below zero,
    not 127.5). It also gives a symmetric range on one side of zero, as behind a ReLU, a zero-point other than 0. TensorRT
    refuses such a zero-point. This class keeps the same scale for training and for conversion.
    """

    least_scale = 0.0
    """The runtime computes wrongly with a smaller scale."""

    def forward(self, X: Tensor) -> Tensor:
        observer = self.activation_post_process
        if self.observer_enabled[0]:
            observer(X.detach())
            self._store(*observer.calculate_qparams())
        if not self.fake_quant_enabled[0]:
            return X
        low, high = observer.quant_min, observer.quant_max
        if self.is_per_channel:
            return torch.fake_quantize_per_channel_affine(X, self.scale, self.zero_point, self.ch_axis, low, high)
        return torch.fake_quantize_per_tensor_affine(X, self.scale, self.zero_point, low, high)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return self.scale, self.zero_point

    @property
    def has_range(self) -> bool:
        """Whether the quantizer was calibrated or has observed a batch."""
        observer = self.activation_post_process
        return bool((observer.min_val < observer.max_val).all()) and observer.min_val.numel() > 0

    def cover(self, low: float, high: float) -> None:
        """Sets the scale and zero-point that cover a range."""
        self._settle(torch.tensor(low), torch.tensor(high))

    def fit(self, weight: Tensor) -> None:
        """Sets the scales from a weight that is not trained, and stops observing."""
        others = [dim for dim in range(weight.dim()) if not self.is_per_channel or dim != self.ch_axis]
        self._settle(weight.detach().amin(others), weight.detach().amax(others))
        self.enable_observer(False)

    def _settle(self, low: Tensor, high: Tensor) -> None:
        observer = self.activation_post_process
        observer.min_val.resize_(low.shape).copy_(low)
        observer.max_val.resize_(high.shape).copy_(high)
        self._store(*observer.calculate_qparams())

    def _store(self, scale: Tensor, zero_point: Tensor) -> None:
        for stored, values in ((self.scale, scale.clamp(min=self.least_scale)), (self.zero_point, zero_point)):
            stored.resize_(values.shape).copy_(values)


def fake_quantizer(dtype: torch.dtype, symmetric: bool, per_channel: bool) -> Any:
    """A constructor of fake-quantizers for torchao.

    Activations use a moving average of their extremes. Weights use their present extremes, because they are fully known.
    """
    if per_channel:
        return FakeQuantizer.with_args(
            observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0, eps=2**-20
        )
    return FakeQuantizer.with_args(observer=MovingAverageMinMaxObserver, averaging_constant=0.01, eps=2**-20)


def train_mode(prepared: GraphModule) -> GraphModule:
    """Switches dropout, batch statistics and range updates on.

    Only the BatchNorms that no convolution absorbed take their batch's statistics.
    """
    _set_training(prepared, True)
    _switch(prepared, observe=not prepared.meta.get("observers_frozen", False), quantize=True)
    inputs = {node.name for node in prepared.graph.find_nodes(op="placeholder")}
    for tensor, fake_quantizer in activation_quantizers(prepared):
        # A calibrated input keeps its range: pixels do not drift as activations do.
        if tensor in inputs and fake_quantizer.has_range:
            fake_quantizer.enable_observer(False)
    return prepared


def eval_mode(prepared: GraphModule) -> GraphModule:
    """Switches the model to its shipped behaviour: no forward pass changes it."""
    _set_training(prepared, False)
    _switch(prepared, observe=False, quantize=True)
    return prepared


@contextmanager
def in_float(prepared: GraphModule) -> Iterator[None]:
    """Switches all quantization off while the block runs, weights included, in evaluation mode."""
    _set_training(prepared, False)
    modules = [module for module in prepared.modules() if isinstance(module, FakeQuantizeBase)]
    were = [(bool(module.fake_quant_enabled), bool(module.observer_enabled)) for module in modules]
    try:
        for module in modules:
            module.enable_fake_quant(False)
            module.enable_observer(False)
        yield
    finally:
        for module, (quantizes, observes) in zip(modules, were, strict=True):
            module.enable_fake_quant(quantizes)
            module.enable_observer(observes)


def freeze_observers(prepared: GraphModule) -> GraphModule:
    """Freezes the activations' ranges from now on, in training too. Used for the last part of a training."""
    prepared.meta["observers_frozen"] = True
    for _, fake_quantizer in activation_quantizers(prepared):
        fake_quantizer.enable_observer(False)
    return prepared


def freeze_bn(prepared: GraphModule) -> GraphModule:
    """Freezes the statistics of the BatchNorms that no convolution absorbed. Absorbed ones are always frozen."""
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
    for _, fake_quantizer in activation_quantizers(prepared):
        fake_quantizer.enable_observer(observe)
        fake_quantizer.enable_fake_quant(quantize)


def activation_quantizers(prepared: GraphModule) -> list[tuple[str, FakeQuantizer]]:
    """(name of the tensor, its fake-quantizer) in the graph's order. Several tensors may share a fake-quantizer."""
    return [(source.name, quantizer) for source, quantizer in _quantizers(prepared) if not is_constant(source)]


def weight_quantizers(prepared: GraphModule) -> list[tuple[Node, FakeQuantizer]]:
    """(node of the weight, its fake-quantizer) in the graph's order."""
    return [(source, quantizer) for source, quantizer in _quantizers(prepared) if is_constant(source)]


def quantizer_of(prepared: GraphModule, node: Node) -> FakeQuantizer | None:
    """The fake-quantizer that a node calls, or None if the node calls another module or function."""
    module = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, FakeQuantizer) else None


def _quantizers(prepared: GraphModule) -> list[tuple[Node, FakeQuantizer]]:
    found = ((node, quantizer_of(prepared, node)) for node in prepared.graph.nodes)
    return [(node.all_input_nodes[0], quantizer) for node, quantizer in found if quantizer is not None]
