"""BatchNormStatistics: the distance of a batch's statistics from the running statistics of the teacher's BatchNorm."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgekd.errors import ModelError


class BatchNormStatistics:
    """Compares the statistics of a forward pass with those of the BatchNorm layers, while the `with` block runs.

    The distance is `Σ ‖μ − running_mean‖₂ + ‖σ² − running_var‖₂` over the BatchNorm2d layers (Yin et al. 2020, 1912.08795,
    equation 4). μ and σ² (biased) are those of the layers' inputs, over batch and image. The model is in eval mode; hooks
    are set on its instances and removed at the end.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers = [
            layer
            for layer in model.modules()
            if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None
        ]
        self._distances: list[Tensor] = []
        self._handles: list[RemovableHandle] = []

    def distance(self) -> Tensor:
        """The distance of the last forward pass, a scalar with its gradient.

        Raises ModelError if the model has no BatchNorm2d layers with running statistics.
        """
        if not self.layers:
            raise ModelError(
                "the teacher has no BatchNorm2d layers with running statistics, which tell what its data looked like; "
                "set bn = 0, or give a teacher that has them"
            )
        return torch.stack(self._distances).sum()

    def __enter__(self) -> BatchNormStatistics:
        self._handles = [self.model.register_forward_pre_hook(lambda model, inputs: self._distances.clear())]
        self._handles += [layer.register_forward_pre_hook(self._compare) for layer in self.layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._distances.clear()

    def _compare(self, layer: nn.Module, inputs: Any) -> None:
        assert isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None
        variance, mean = torch.var_mean(inputs[0].float(), (0, 2, 3), unbiased=False)
        far = torch.linalg.vector_norm
        self._distances.append(far(mean - layer.running_mean) + far(variance - layer.running_var))
