"""arguments: turns a batch into the arguments of a prepared graph, or raises an error of one line."""

from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule

from edgekd.errors import QuantizationError
from edgekd.models.trace import Batch, as_tuple


def arguments(prepared: GraphModule, batch: Batch, number: int = 0) -> tuple[Tensor, ...]:
    """The tensors of a batch, one for each input.

    Raises QuantizationError if their count differs from the model's; the error names the batch's `number`.
    """
    given = as_tuple(batch)
    names = [node.name for node in prepared.graph.find_nodes(op="placeholder")]
    if len(given) != len(names):
        raise QuantizationError(
            f"batch {number} has {len(given)} tensors, the model takes {len(names)} ({', '.join(names)}); give a tuple of these"
        )
    return given
