"""Candidate: a model that could ship, with its score, latency and estimate. Check: a line of the report's checks."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Origin = Literal["device", "host", "emulated", "estimate", "not measured"]


class Record(BaseModel):
    """A part of a report: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(Record):
    """A model's figure of a metric over `n` samples of a split, with its 95 % interval."""

    metric: str = "top-1"
    unit: str = Field(default="%", description="of the value; a difference of percents is in points")
    better: Literal["higher", "lower"] = "higher"
    value: float
    low: float
    high: float
    n: int
    split: Literal["test", "holdout"]
    runtime: str = Field(description="what computed it, with version: 'onnxruntime 1.31.1 CPU'")
    origin: Origin = "host"
    parts: dict[str, float] = Field(default_factory=dict, description="figures of parts of the samples: of each class")

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.better == "higher" else -1


class Latency(Record):
    """Milliseconds of one inference; made by edgekd.measure.protocol."""

    p50_ms: float
    p90_ms: float
    p99_ms: float | None = Field(default=None, description="none below 1000 samples")
    low_ms: float = Field(description="95 % bootstrap interval of the median")
    high_ms: float
    n: int
    block_medians_ms: tuple[float, ...]
    stable: bool = Field(description="the blocks' medians lie within 5 %")
    batch_size: int = 1
    threads: int
    machine: str
    runtime: str
    origin: Origin = "host"
    unsteady: tuple[str, ...] = Field(default=(), description="why no verdict is built on this series, and what to do")
    transfers: Literal["included", "excluded", "none"] = Field(
        default="none", description="copies to and from a GPU; none: there are none to make"
    )


class KernelTime(Record):
    """A kernel of an estimate: a multiply-add counts two operations."""

    name: str
    kind: str
    precision: str
    operations: int
    bytes: int
    ms: float


class Estimate(Record):
    """An estimated time for one sample, as a range, from a device's profile or calibration.

    Never a measurement.
    """

    device: str
    basis: str = Field(description="what it was made from, and what the range's ends mean")
    low_ms: float
    high_ms: float | None = Field(description="none: no upper end can be given; leaves_out says why")
    leaves_out: tuple[str, ...] = ()
    kernels: tuple[KernelTime, ...]
    peaks_gops: dict[str, float] = Field(
        description="number format -> operations a second, in 10^9, as the profile states them"
    )
    without_peak: tuple[str, ...] = Field(
        default=(), description="number formats of its products for which the profile states none: they have no order"
    )
    starts_left_out: int = Field(default=0, description="kernels whose start the low end leaves out")
    bandwidth_gbs: float | None
    origin: Literal["estimate"] = "estimate"


class Candidate(Record):
    """One exported model that could ship."""

    name: str = Field(description="fp32, fp16, bf16, int8")
    file: str = Field(description="its name in the bundle; empty: not part of it")
    size_mb: float
    score: Score
    latency: Latency | None = Field(default=None, description="none: not measured")
    peak_memory_mb: float | None = None
    estimate: Estimate | None = Field(default=None, description="on the target; none: its profile states no bandwidth")
    order_ms: float | None = Field(
        default=None, description="what the order of the candidates was made by; none: the order in time is not known"
    )
    order_origin: Origin = "host"
    shipped: bool = False
    reason: str = Field(description="why it ships, or why it lost")


class Dropped(Record):
    """A candidate that could not be made, opened or run, and the reason."""

    name: str
    reason: str


class Check(Record):
    """One line of the table of checks."""

    name: str
    verdict: Literal["pass", "missed", "not measured", "unstable", "note"]
    found: str
    limit: str = ""
    origin: Origin = "host"
