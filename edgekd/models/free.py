"""free_sizes: the sizes of fields that stay free in a graph, as the tracer takes them."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.inputs import Field
from edgekd.models.trace import Free, FreeSize


def free_sizes(fields: Sequence[Field]) -> Free:
    """Of each field the free axes behind the batch; empty where no size is free."""
    axes = [
        {
            axis: FreeSize(size, field.at_most, field.at_least)
            for axis, size in enumerate(field.shape, start=1)
            if isinstance(size, str)
        }
        for field in fields
    ]
    return tuple(axes) if any(axes) else ()
