"""free_sizes: the sizes of an input's fields that stay free in the graph, as the tracer takes them."""

from __future__ import annotations

from edgekd.inputs import Input
from edgekd.models.trace import Free, FreeSize


def free_sizes(input: Input) -> Free:
    """Of each field the free axes behind the batch; a network's arguments have those of the fields. Empty: none is free."""
    axes = [
        {axis: FreeSize(size, field.at_most) for axis, size in enumerate(field.shape, start=1) if isinstance(size, str)}
        for field in input.fields
    ]
    return tuple(axes) if any(axes) else ()
