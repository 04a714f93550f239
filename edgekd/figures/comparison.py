"""Comparison: bundles side by side, the first of them as the reference. `edgekd compare` prints it."""

from __future__ import annotations

from pydantic import Field

from edgekd.figures.candidate import Latency, Record, Score
from edgekd.figures.outputs import Output


class MeasuredThere(Record):
    """The decisive latency of a bundle's model on a device."""

    device: str
    power_mode: str | None
    latency: Latency


class ComparedBundle(Record):
    """A bundle and the figures of the model that it ships."""

    folder: str
    recipe: str
    target: str
    headline: str = Field(description="whether to ship it")
    model: str = Field(description="fp32, fp16, bf16 or int8")
    score: Score
    size_mb: float
    latency: Latency | None = Field(description="on the machine of the build; none: not measured")
    devices: tuple[MeasuredThere, ...]


class ScoreDifference(Record):
    """How much worse a bundle's score is than the first one's, in the metric's unit. Below 0: better."""

    folder: str
    value: float
    low: float | None = Field(description="95 % interval on the same samples; none: not paired")
    high: float | None
    why_not_paired: str = ""


class RecipeDifference(Record):
    """A key of the recipe or of the target that has not the same value in all bundles."""

    key: str
    values: tuple[str, ...] = Field(description="as in TOML, one for each bundle; empty: not given")


class Comparison(Output):
    """`edgekd compare --json`."""

    bundles: tuple[ComparedBundle, ...]
    differences: tuple[ScoreDifference, ...] = Field(description="of each bundle behind the first")
    recipes: tuple[RecipeDifference, ...]
    notes: tuple[str, ...] = Field(description="why figures may not be compared: other machines, other test samples")
