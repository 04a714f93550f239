"""short_blocks: for tests of what a build makes, not of how fast it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edgekd.measure.protocol import interleave


@contextmanager
def short_blocks() -> Iterator[None]:
    """Latency blocks of milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        defaults = {**(interleave.__kwdefaults__ or {}), "warmup_s": 0.02, "min_block_s": 0.02}
        patch.setattr(interleave, "__kwdefaults__", defaults)
        yield
