"""copy_of: a copy of a model, also of one whose layers keep a weight that a computation with gradients gave."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def copy_of(model: nn.Module) -> nn.Module:
    """`copy.deepcopy` refuses such a tensor, as `torch.nn.utils.weight_norm` leaves it on its layer; the copy's is detached."""
    memo: dict[int, Any] = {id(value): value.detach().clone() for _, _, value in _computed(model)}
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*LeafSpec", category=FutureWarning
        )  # torch's own, of captured graphs
        return copy.deepcopy(model, memo)


def detach_computed(model: nn.Module) -> None:
    """Frees `model`'s layers of the graph of their last forward pass, so that others may copy it; the next pass computes anew."""
    for module, name, value in list(_computed(model)):
        setattr(module, name, value.detach())


def _computed(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Tensors that stand on modules and that a computation with gradients gave."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield module, name, value
