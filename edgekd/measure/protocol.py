"""measure, interleave: time calls in blocks, as long as Timing says. Series: percentiles, interval, stability.

faster: the verdict on two series. Timing and statistics are separate: a `Series` can be made by hand from any blocks of
milliseconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.candidate import Latency, Origin
from edgekd.runtime.session_worker import time_block

Call = Callable[[], object]
Clock = Callable[[], int]
Verdict = Literal["a", "b", "unstable"]

STABLE_WITHIN = 0.05
P99_NEEDS = 1000
MIN_BLOCKS = 3
THINNED_TO = 2000


@dataclass(frozen=True)
class Timing:
    """The duration of timing. The defaults are the protocol's.

    Raises ValueError for fewer than three blocks, which cannot show stability.
    """

    warmup_s: float = 1.0
    blocks: int = MIN_BLOCKS
    min_block_s: float = 1.0
    min_n: int = 60  # samples of all blocks together

    def __post_init__(self) -> None:
        if self.blocks < MIN_BLOCKS:
            raise ValueError(
                f"blocks = {self.blocks}; at least {MIN_BLOCKS} are needed to tell whether the machine was stable"
            )


PROTOCOL = Timing()


@runtime_checkable
class TimesItself(Protocol):
    """A call into another process, timed by that process's clock.

    The communication between the processes then does not count to the model.
    """

    def __call__(self) -> object: ...

    def block(self, min_s: float, min_n: int) -> NDArray[np.float64]:
        """The time of each call in milliseconds, as of `time_block`."""
        ...


@dataclass(frozen=True)
class Series:
    """A timed series: an array of milliseconds for each block, in the order of timing."""

    blocks_ms: tuple[NDArray[np.float64], ...]

    def __post_init__(self) -> None:
        if not self.blocks_ms or any(block.size == 0 for block in self.blocks_ms):
            raise ValueError("a series needs at least one block, and each block at least one sample")

    @classmethod
    def of(cls, *blocks_ms: Sequence[float]) -> Series:
        """A series from plain numbers, with a sequence for each block."""
        return cls(tuple(np.asarray(block, dtype=np.float64) for block in blocks_ms))

    @cached_property
    def samples_ms(self) -> NDArray[np.float64]:
        return np.concatenate(self.blocks_ms)

    @property
    def n(self) -> int:
        return int(self.samples_ms.size)

    @cached_property
    def p50_ms(self) -> float:
        return float(np.percentile(self.samples_ms, 50))

    @cached_property
    def p90_ms(self) -> float:
        return float(np.percentile(self.samples_ms, 90))

    @cached_property
    def p99_ms(self) -> float | None:
        """The 99th percentile, or None below 1000 samples, of which fewer than ten would lie above it."""
        return float(np.percentile(self.samples_ms, 99)) if self.n >= P99_NEEDS else None

    @cached_property
    def block_medians_ms(self) -> tuple[float, ...]:
        return tuple(float(np.median(block)) for block in self.blocks_ms)

    @property
    def noise_ms(self) -> float:
        """The range of the blocks' medians, as a measure of the machine's own noise."""
        return max(self.block_medians_ms) - min(self.block_medians_ms)

    @property
    def stable(self) -> bool:
        """Whether the series has at least three blocks, and their medians lie within 5 % of the smallest."""
        return len(self.blocks_ms) >= MIN_BLOCKS and self.noise_ms <= STABLE_WITHIN * min(self.block_medians_ms)

    @cached_property
    def interval_ms(self) -> tuple[float, float]:
        """The 95 % bootstrap interval of the median; equal series give equal intervals."""
        return bootstrap_interval(self.blocks_ms)

    def latency(
        self, *, threads: int, machine: str, runtime: str, batch_size: int = 1, origin: Origin = "host"
    ) -> Latency:
        """The report's figure with its conditions."""
        low_ms, high_ms = self.interval_ms
        return Latency(
            p50_ms=self.p50_ms,
            p90_ms=self.p90_ms,
            p99_ms=self.p99_ms,
            low_ms=low_ms,
            high_ms=high_ms,
            n=self.n,
            block_medians_ms=self.block_medians_ms,
            stable=self.stable,
            batch_size=batch_size,
            threads=threads,
            machine=machine,
            runtime=runtime,
            origin=origin,
        )


def bootstrap_interval(
    blocks_ms: Sequence[NDArray[np.float64]], *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval (low, high) of the median of all samples, by a two-level bootstrap.

    Blocks are drawn with replacement, then samples within each. A machine that changes between blocks widens the interval.
    A bootstrap of the pooled samples would not show this. A block of more than 2000 samples is thinned evenly to 2000,
    which can only widen the interval.
    """
    rng = np.random.default_rng(seed)
    blocks = [_thin(block) for block in blocks_ms]
    medians = np.empty(resamples)
    for i in range(resamples):
        drawn = [blocks[b] for b in rng.integers(len(blocks), size=len(blocks))]
        medians[i] = np.median(np.concatenate([rng.choice(block, size=block.size) for block in drawn]))
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


def _thin(block: NDArray[np.float64]) -> NDArray[np.float64]:
    if block.size <= THINNED_TO:
        return block
    return block[np.linspace(0, block.size - 1, THINNED_TO).astype(np.int64)]


def faster(a: Series | Latency, b: Series | Latency) -> Verdict:
    """The faster of two series from the same `interleave`, or `unstable` if noise could decide.

    The medians must differ by more than either series' blocks differ among themselves. The intervals must not overlap, and
    the winner must win every block: interleaved blocks of the same number saw the same machine. Raises ValueError for
    different numbers of blocks.
    """
    medians_a, medians_b = a.block_medians_ms, b.block_medians_ms
    if len(medians_a) != len(medians_b):
        raise ValueError(
            f"given {len(medians_a)} and {len(medians_b)} blocks; compare series of one `interleave`, block by block"
        )
    if len(medians_a) < MIN_BLOCKS or abs(a.p50_ms - b.p50_ms) <= max(_spread(medians_a), _spread(medians_b)):
        return "unstable"
    (low_a, high_a), (low_b, high_b) = _interval(a), _interval(b)
    if high_a < low_b and all(x < y for x, y in zip(medians_a, medians_b, strict=True)):
        return "a"
    if high_b < low_a and all(y < x for x, y in zip(medians_a, medians_b, strict=True)):
        return "b"
    return "unstable"


def _spread(medians_ms: Sequence[float]) -> float:
    return max(medians_ms) - min(medians_ms)


def _interval(figure: Series | Latency) -> tuple[float, float]:
    return figure.interval_ms if isinstance(figure, Series) else (figure.low_ms, figure.high_ms)


def measure(fn: Call, timing: Timing = PROTOCOL, *, clock_ns: Clock = time.perf_counter_ns) -> Series:
    """Times `fn` alone."""
    return interleave({"fn": fn}, timing, clock_ns=clock_ns)["fn"]


def interleave(
    fns: Mapping[str, Call], timing: Timing = PROTOCOL, *, clock_ns: Clock = time.perf_counter_ns
) -> dict[str, Series]:
    """Times several calls in turns, so that the machine's noise affects all alike.

    Each call is warmed up for `warmup_s`. Then every round takes a block of each, and the order is reversed every second
    round. A block lasts at least `min_block_s` and takes at least its share of the `min_n` samples. It starts after a tenth
    of the warm-up, unrecorded, which reloads the caches after the previous candidate.
    """
    for fn in fns.values():
        _time_block(fn, timing.warmup_s, 1, clock_ns)
    taken: dict[str, list[NDArray[np.float64]]] = {name: [] for name in fns}
    share = math.ceil(timing.min_n / timing.blocks)
    for round_number in range(timing.blocks):
        for name in list(fns) if round_number % 2 == 0 else reversed(list(fns)):
            _time_block(fns[name], timing.warmup_s / 10, 1, clock_ns)
            taken[name].append(_time_block(fns[name], timing.min_block_s, share, clock_ns))
    return {name: Series(tuple(series)) for name, series in taken.items()}


def _time_block(fn: Call, min_s: float, min_n: int, clock_ns: Clock) -> NDArray[np.float64]:
    """The time of each call in milliseconds, measured here or where `fn` times itself.

    The block ends when `min_s` have passed and `min_n` calls were made.
    """
    if isinstance(fn, TimesItself):
        return fn.block(min_s, min_n)
    return time_block(fn, min_s, min_n, clock_ns)
