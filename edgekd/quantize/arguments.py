"""arguments: a batch as the arguments of a prepared graph, or one line about what does not fit."""

from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule

from edgekd.errors import QuantizationError
from edgekd.models.trace import Batch, as_tuple


def arguments(prepared: GraphModule, batch: Batch, number: int = 0) -> tuple[Tensor, ...]:
    """The tensors of a batch, one for each input. Raises QuantizationError for another count, naming the batch's `number`."""
    given = as_tuple(batch)
    names = [node.name for node in prepared.graph.find_nodes(op="placeholder")]
    if len(given) != len(names):
        raise QuantizationError(
            f"batch {number} has {len(given)} tensors, the model takes {len(names)} ({', '.join(names)}); give a tuple of these"
        )
    return given
