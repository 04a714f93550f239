"""observe: collects in one pass over the calibration samples all statistics for edgekd.quantize.ranges."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import safetensors.torch
import torch
from torch import Tensor
from torch.fx import GraphModule

from edgekd.errors import QuantizationError
from edgekd.models.trace import Batch
from edgekd.quantize.arguments import arguments
from edgekd.quantize.qat import FakeQuantizer, activation_quantizers, in_float

BINS = 8192
"""Bins over both signs.

The range `[low, high]` of one sign covers 2048 bins or more, the number that Migacz (2017) searches.
"""


@dataclass
class Statistics:
    """The statistics of an activation: `counts` int64 `[BINS]` over `[-limit, limit]`, and each batch's extremes.

    The limit is a power of two. If a value lies outside, the limit doubles and pairs of bins are added up. Values thus
    never move to a wrong bin.
    """

    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.int64))
    limit: float = 2.0**-20
    extremes: list[tuple[float, float]] = field(default_factory=list)

    @property
    def low(self) -> float:
        return min(low for low, _ in self.extremes)

    @property
    def high(self) -> float:
        return max(high for _, high in self.extremes)

    @property
    def centres(self) -> Tensor:
        """The centre of each bin, float64 `[BINS]`."""
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 * self.limit / BINS) - self.limit

    @property
    def is_finite(self) -> bool:
        return all(abs(low) < float("inf") and abs(high) < float("inf") for low, high in self.extremes)

    def add(self, x: Tensor) -> None:
        """Counts a batch's values. NaN and infinity only enter the extremes."""
        low, high = (float(extreme) for extreme in x.aminmax())
        self.extremes.append((low, high))
        if not self.is_finite:
            return
        while max(-low, high) > self.limit:
            inner = self.counts.reshape(-1, 2).sum(1)
            self.counts = torch.nn.functional.pad(inner, (BINS // 4, BINS // 4))
            self.limit *= 2
        # All factors are powers of two, so no value is rounded into another bin. `histc` rounds, and takes about twice as long.
        bins = (x.reshape(-1).float() * (BINS / 2 / self.limit)).floor_().add_(BINS // 2).clamp_(max=BINS - 1)
        self.counts += torch.bincount(bins.int(), minlength=BINS)


def observe(prepared: GraphModule, batches: Iterable[Batch]) -> dict[str, Statistics]:
    """Statistics of the float model at each of a prepared graph's activations, by tensor.

    `batches` are real samples, the model's argument `[batch, ...]` or the tuple of its arguments. Tensors that share a
    scale share their statistics. Raises QuantizationError for no samples, for samples that are all one value, and for NaN
    or infinity. Raises it also if a batch does not fit the model's arguments.
    """
    statistics, hooks = {}, []
    for tensor, quantizer in quantizers_by_tensor(prepared).items():
        tensor_statistics = statistics[tensor] = Statistics()
        hooks.append(
            quantizer.register_forward_pre_hook(
                lambda _, inputs, tensor_statistics=tensor_statistics: tensor_statistics.add(inputs[0].detach())
            )
        )
    number = 0
    try:
        with torch.no_grad(), in_float(prepared):
            for batch in batches:
                given = arguments(prepared, batch, number)
                if not all(bool(x.isfinite().all()) for x in given if x.is_floating_point()):
                    raise QuantizationError(
                        f"calibration batch {number} holds NaN or infinity; it must hold real samples"
                    )
                prepared(*given)
                number += 1
    finally:
        for hook in hooks:
            hook.remove()
    if number == 0:
        raise QuantizationError("no calibration samples were given; calibrate with some of the training samples")
    inputs = [node.name for node in prepared.graph.find_nodes(op="placeholder")]
    for tensor, tensor_statistics in statistics.items():
        _check(tensor, tensor_statistics, inputs)
    shared = {id(quantizer): statistics[tensor] for tensor, quantizer in quantizers_by_tensor(prepared).items()}
    return {tensor: shared[id(quantizer)] for tensor, quantizer in activation_quantizers(prepared)}


def quantizers_by_tensor(prepared: GraphModule) -> dict[str, FakeQuantizer]:
    """Each activation's fake-quantizer, in order. A shared one is listed once, under its first tensor."""
    found: dict[int, tuple[str, FakeQuantizer]] = {}
    for tensor, quantizer in activation_quantizers(prepared):
        found.setdefault(id(quantizer), (tensor, quantizer))
    return dict(found.values())


def save_statistics(statistics: Mapping[str, Statistics], path: str | os.PathLike[str]) -> None:
    """Writes the statistics as safetensors: `<tensor>.counts`, `<tensor>.limit`, `<tensor>.extremes`."""
    stored = {}
    for tensor, tensor_statistics in statistics.items():
        stored[f"{tensor}.counts"] = tensor_statistics.counts.clone()  # safetensors refuses tensors that share memory
        stored[f"{tensor}.limit"] = torch.tensor(tensor_statistics.limit, dtype=torch.float64)
        stored[f"{tensor}.extremes"] = torch.tensor(tensor_statistics.extremes, dtype=torch.float64)
    safetensors.torch.save_file(stored, path)


def load_statistics(path: str | os.PathLike[str]) -> dict[str, Statistics]:
    """Reads statistics that `save_statistics` wrote."""
    stored = safetensors.torch.load_file(path)
    return {tensor: _stored(stored, tensor) for tensor in _tensors(stored)}


def _tensors(stored: Mapping[str, Tensor]) -> Iterator[str]:
    return (name.removesuffix(".counts") for name in stored if name.endswith(".counts"))


def _stored(stored: Mapping[str, Tensor], tensor: str) -> Statistics:
    extremes = [(low, high) for low, high in stored[f"{tensor}.extremes"].tolist()]
    return Statistics(stored[f"{tensor}.counts"], float(stored[f"{tensor}.limit"]), extremes)


def _check(tensor: str, statistics: Statistics, inputs: Sequence[str]) -> None:
    if not statistics.is_finite:
        raise QuantizationError(f"activation '{tensor}' is NaN or infinite on the calibration samples")
    # Only inputs are refused: if a layer's output is always one value, any range that contains it is exact.
    if tensor in inputs and statistics.low == statistics.high:
        named = f" as '{tensor}'" if len(inputs) > 1 else ""
        raise QuantizationError(
            f"every value of every calibration sample{named} is {statistics.low + 0:g}: no range follows from that; calibrate with "
            "some of the training samples"
        )
