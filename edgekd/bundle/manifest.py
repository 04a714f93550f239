"""Manifest: the content of manifest.json. This module reads it, writes it, and lists the figures of a report.

A key that a newer edgekd added is kept unchanged. A key that an older edgekd did not write stays absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from edgekd.base.names import in_a_line
from edgekd.figures.candidate import Latency, Origin, Score
from edgekd.figures.figures import OnDevice, Report
from edgekd.scripts.device_runner.model import manifest_problem

FORMAT: Final = 1
LONGEST_KEY = 80


def _as_written(value: Any, check: Callable[[Any], float]) -> float:
    """Keeps a whole number an int, because 1 and 1.0 are different bytes in a file."""
    checked = check(value)
    return value if type(value) is int else checked


Number = Annotated[float, WrapValidator(_as_written)]
Finite = Annotated[float, Field(allow_inf_nan=False), WrapValidator(_as_written)]


class Part(BaseModel):
    """A table of the manifest. It is immutable, and a text is never taken for a number."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    def written(self) -> dict[str, Any]:
        """The keys that were read or given, and no others."""
        return self.model_dump(exclude_unset=True)


class GraphColumn(Part):
    """A column of a table, or a part of a date, as run.py reads it from a CSV."""

    name: str
    part: str = Field(default="", description="of a date; columns of numbers and categories have no such key")
    words: tuple[str, ...] = Field(default=(), description="of a category; its codes begin with 0 unknown, 1 no value")


class GraphInput(Part):
    """An input of the graph. A free size of the same name is the same size in all inputs."""

    name: str
    dtype: str = Field(description="numpy's name of it")
    shape: tuple[int | str | None, ...] = Field(description="a free size is its name, or null")
    layout: Literal["NHWC", "NCHW", ""] = Field(description="empty: the input is no image")
    at_most: Mapping[str, int] = Field(default={}, description="a free size that is no batch -> its largest")
    sample_rate: int | None = Field(default=None, description="of sounds, in Hz; other inputs have no such key")
    mono: Literal["mean", "left", "right"] | None = Field(default=None, description="what becomes of two channels")
    columns: tuple[GraphColumn, ...] = Field(default=(), description="of a table, in the order of the array")
    missing: tuple[str, ...] = Field(default=(), description="texts of a table that say no value")


class StoredTask(Part):
    """What the first output is, where it is no classes."""

    kind: Literal["multilabel", "regress", "segment"]
    thresholds: tuple[float, ...] = Field(default=(), description="probability above which each label is given")


class StoredOutputs(Part):
    """The table about golden.npz: `n` inputs, and the tolerance of each output."""

    n: int = 0
    tolerance: Number = Field(description="of the first output")
    further: Mapping[str, Number] = Field(default={}, description="output -> tolerance, where there are several")


class Preprocess(Part):
    """The normalisation (x / 255 - mean) / std of each channel, if the graph does not contain it."""

    mean: tuple[Finite, ...]
    std: tuple[Finite, ...]


class Stage(Part):
    """A stage of the build: its name and its key in the cache."""

    name: str | None = None
    key: str | None = None


class StoredBudget(Part):
    """The budget that devices are judged by after the build."""

    p90_latency_ms: Finite | None = None


class StoredRecipe(Part):
    """The recipe as written. edgekd.measure.samples makes a Recipe of it.

    Another edgekd may know other keys. Its bundles are verified and shipped nevertheless.
    """

    budget: StoredBudget = StoredBudget()


class Figure(Part):
    """A figure of the report with its origin. A figure that was not measured has no value and says so."""

    model: str
    figure: str
    value: Number | None
    origin: Origin
    interval: tuple[Number | None, Number | None] | None = None
    n: int | None = None
    split: str | None = None
    runtime: str | None = None
    machine: str | None = None
    batch_size: int | None = None
    threads: int | None = None
    stable: bool | None = None
    transfers: str | None = None
    basis: str | None = Field(default=None, description="what an estimate was made from")
    leaves_out: tuple[str, ...] = ()
    device: str | None = None
    power_mode: str | None = None
    clocks_mhz: Mapping[str, Number] = {}


class Manifest(Part):
    """The content of manifest.json."""

    format: Literal[1]
    files: Mapping[str, str] = Field(description="name -> SHA-256, of every other file")
    golden: StoredOutputs
    task: StoredTask | None = Field(default=None, description="what the first output is; none: classes")
    input: GraphInput = Field(description="the first one")
    further_inputs: tuple[GraphInput, ...] = Field(default=(), description="where there are several")
    runtime: str = ""
    precision: str = ""
    output: Literal["logits", "probabilities"] = "logits"
    preprocess: Preprocess | None = None
    tasks: Mapping[str, tuple[str, ...]] = Field(default={}, description="further output -> its classes")
    kinds: Mapping[str, Literal["multilabel", "regress", "segment"]] = Field(
        default={}, description="further output -> what it is, where it is no classes"
    )
    recipe: StoredRecipe = StoredRecipe()
    target: Mapping[str, Any] = Field(default={}, description="as it was written: another edgekd knows other keys")
    fingerprint: str = Field(default="", description="the hash of all that the bundle was made of")
    versions: Mapping[str, str] = {}
    lineage: tuple[Stage, ...] = ()
    figures: tuple[Figure, ...] = ()
    trtexec: Mapping[str, str] = Field(default={}, description="TensorRT release -> NVIDIA's command for the engine")

    @classmethod
    def of(cls, content: Any) -> Manifest:
        """The manifest from parsed JSON. Raises ValueError with a line that names the wrong key."""
        if problem := manifest_problem(content):
            raise ValueError(problem)
        try:
            # Validated as JSON, because strict validation accepts a list for a tuple only there.
            return cls.model_validate_json(json.dumps(content))
        except ValidationError as error:
            raise ValueError(_told(error)) from None
        except RecursionError:
            raise ValueError("nested too deep") from None

    @property
    def inputs(self) -> tuple[GraphInput, ...]:
        """All inputs of the graph, in its order."""
        return self.input, *self.further_inputs

    def text(self) -> str:
        """The manifest as JSON text. The same content gives the same bytes.

        Raises ValueError for NaN and infinities, which JSON does not have.
        """
        return json.dumps(self.written(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def tables_of(inputs: Sequence[GraphInput]) -> dict[str, Any]:
    """The manifest's keys for its inputs. A single input keeps its old key and adds no other."""
    first, *further = inputs
    return {"input": first, "further_inputs": tuple(further)} if further else {"input": first}


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = in_a_line(".".join(str(step) for step in first["loc"]))
    problem = in_a_line(first["msg"].replace("Input should", "it should"))
    return f"`{key[:LONGEST_KEY]}`: {problem}" if key else problem


def figures(report: Report) -> tuple[Figure, ...]:
    """All figures of the report with their origin. Figures that were not measured are listed as such."""
    rows: list[Figure] = []
    if report.teacher is not None:
        rows += [_score("teacher", report.teacher), *_latency("teacher", report.teacher_latency)]
    for candidate in report.candidates:
        rows += [_score(candidate.name, candidate.score), *_latency(candidate.name, candidate.latency)]
        rows.append(Figure(model=candidate.name, figure="size_mb", value=candidate.size_mb, origin="host"))
        memory = candidate.peak_memory_mb
        origin: Origin = "not measured" if memory is None else "host"
        rows.append(Figure(model=candidate.name, figure="peak_memory_mb", value=memory, origin=origin))
        if (estimate := candidate.estimate) is not None:
            rows.append(
                Figure(
                    model=candidate.name, figure="estimate_ms", value=None, origin="estimate",
                    interval=(estimate.low_ms, estimate.high_ms), basis=estimate.basis, leaves_out=estimate.leaves_out,
                )
            )  # fmt: skip
    for device in report.devices:
        rows += _on_device(report.chosen.name, device)
    return tuple(rows)


def _on_device(model: str, device: OnDevice) -> list[Figure]:
    """The device's figures of the shipped model, each with the device's name, power mode and clocks."""
    rows = [_score(model, device.score)] if device.score else []
    for latency in device.latencies:
        rows += [row.model_copy(update={"transfers": latency.transfers}) for row in _latency(model, latency)]
    # Samples may agree, but a figure is not stable if clocks, power mode or throttling changed.
    rows = [row if row.stable is None else row.model_copy(update={"stable": not device.unstable}) for row in rows]
    single = {"load_ms": device.load_ms, "first_ms": device.first_ms, "peak_memory_mb": device.peak_memory_mb}
    rows += [
        Figure(model=model, figure=name, value=value, origin=device.origin)
        for name, value in single.items()
        if value is not None
    ]
    conditions = {"device": device.device, "power_mode": device.power_mode, "clocks_mhz": device.before.clocks_mhz}
    return [row.model_copy(update=conditions) for row in rows]


def _figure(score: Score) -> str:
    """The metric's name with its unit, e.g. `top1_percent`."""
    name = score.metric.lower().replace("-", "").replace(" ", "_")
    return f"{name}_percent" if score.unit == "%" else name


def _score(model: str, score: Score) -> Figure:
    return Figure(
        model=model, figure=_figure(score), value=score.value, interval=(score.low, score.high),
        n=score.n, split=score.split, runtime=score.runtime, origin=score.origin,
    )  # fmt: skip


def _latency(model: str, latency: Latency | None) -> Sequence[Figure]:
    if latency is None:
        return [Figure(model=model, figure="p50_ms", value=None, origin="not measured")]
    p90 = Figure(
        model=model, figure="p90_ms", value=latency.p90_ms, n=latency.n, stable=latency.stable, batch_size=latency.batch_size,
        threads=latency.threads, machine=latency.machine, runtime=latency.runtime, origin=latency.origin,
    )  # fmt: skip
    interval = latency.low_ms, latency.high_ms
    p50 = p90.model_copy(update={"figure": "p50_ms", "value": latency.p50_ms, "interval": interval})
    p99 = p90.model_copy(update={"figure": "p99_ms", "value": latency.p99_ms})
    return [p50, p90] if latency.p99_ms is None else [p50, p90, p99]
