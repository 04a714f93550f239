"""SHORT: latency blocks of milliseconds, for tests of what a build makes, not of how fast it is."""

from __future__ import annotations

from edgekd.measure.protocol import Timing

SHORT = Timing(warmup_s=0.02, min_block_s=0.02)
