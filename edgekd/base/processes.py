"""The processes of `accelerate launch`: all train together; the first does all other work alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

SIZE = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
PATIENCE = timedelta(days=2)  # how long the others wait while the first decodes data or records a large teacher


def invite() -> None:
    """Called by the first process: the other processes join the stage that begins now."""
    _broadcast("join")


def dismiss() -> None:
    """Called by the first process: the stage is stored, and the other processes stop waiting for it."""
    _broadcast("done")


def invitations() -> Iterator[None]:
    """Called by the other processes: yields once for each `invite`, until `dismiss`."""
    while _broadcast(None) == "join":
        yield


def wait() -> None:
    """Barrier. Does nothing in a single process."""
    if SIZE > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _broadcast(word: str | None) -> str | None:
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    (heard,) = broadcast_object_list([word])
    return heard  # type: ignore[no-any-return]
