"""copy_of: copies a model, also a model whose layers keep weights computed with gradients."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def copy_of(model: nn.Module) -> nn.Module:
    """A copy of a model, with computed weights detached from their graph.

    `copy.deepcopy` refuses tensors that a computation with gradients gave, as `torch.nn.utils.weight_norm` leaves on a layer.
    """
    memo: dict[int, Any] = {id(value): value.detach().clone() for _, _, value in _computed(model)}
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*LeafSpec", category=FutureWarning
        )  # torch warns of its own captured graphs
        return copy.deepcopy(model, memo)


def detach_computed(model: nn.Module) -> None:
    """Detach computed weights of a model from the last forward pass, so that others may copy the model.

    The next forward pass computes these weights again.
    """
    for module, name, value in list(_computed(model)):
        setattr(module, name, value.detach())


def _computed(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """The tensors on modules that come from a computation with gradients: module, attribute, tensor."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield module, name, value
