"""Report: the results of a build. Every figure carries its origin; a figure that was not measured says so."""

from __future__ import annotations

from html import escape
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, computed_field, model_validator

from edgekd.figures.candidate import Candidate, Check, Dropped, Latency, Origin, Record, Score
from edgekd.figures.verdict import Verdict, verdict_of
from edgekd.figures.words import latency_cells, megabytes, metric_in, with_interval

LONGEST = 400
MOST = 512


def printable(text: str) -> str:
    """A text from a device, without control characters and at most 400 characters long."""
    return "".join(c if c.isprintable() else " " for c in text)[:LONGEST]


Said = Annotated[str, AfterValidator(printable)]
Figures = Annotated[dict[Said, float], Field(default_factory=dict, max_length=MOST)]


class Reading(Record):
    """A record read on a device. Figures that are not finite are refused."""

    model_config = ConfigDict(allow_inf_nan=False)


class DeviceState(Reading):
    """The conditions of a measurement that may change while it runs. Unreadable conditions are absent."""

    power_mode: Said | None = None
    clocks_mhz: Figures = Field(description="cpu0 (a policy, by its first core), gpu")
    governors: dict[Said, Said] = Field(default_factory=dict, max_length=MOST)
    temperatures_c: Figures
    throttle_counts: dict[Said, int] = Field(
        default_factory=dict, max_length=MOST, description="counters that only grow"
    )
    free_memory_mb: float | None = None
    load_1m: float | None = None


Rails = Annotated[dict[Said, float], Field(min_length=1, max_length=MOST)]


class Energy(Reading):
    """The mean power of each rail at rest and during inference, in milliwatts.

    The energy of one inference is in millijoules.
    """

    idle_mw: Rails
    busy_mw: Rails
    inferences: int
    mj_per_inference: Rails


class Window(Reading):
    """A stretch of a sustained run; it ends `at_s` seconds after the run's start."""

    at_s: float
    n: int
    p50_ms: float
    clocks_mhz: Figures
    temperatures_c: Figures
    throttle_counts: dict[Said, int] = Field(default_factory=dict, max_length=MOST)


class OnDevice(Record):
    """The figures of the shipped model on one device, with their conditions."""

    device: str = Field(description="the name that the user gave it")
    origin: Origin
    created: str = Field(description="UTC, ISO 8601")
    machine: str = Field(description="board, processor, memory, system")
    architecture: str
    system: str = Field(description="JetPack or L4T where there is one, and Python")
    runtime: str
    model_sha256: str = Field(description="of the model.onnx that was measured")
    is_target: bool = Field(description="architecture and runtime are those that the bundle was built for")
    golden_ok: bool | None = Field(description="the stored outputs; none: what ran there does not compute them")
    golden: str
    latencies: tuple[Latency, ...] = ()
    unstable: tuple[str, ...] = Field(
        default=(), description="why no verdict is built on the latencies, and what to do"
    )
    score: Score | None = None
    energy: Energy | None = Field(default=None, description="none: no sensor can be read")
    load_ms: float | None = None
    first_ms: float | None = None
    peak_memory_mb: float | None = None
    build_s: float | None = Field(default=None, description="of the engine, where the runtime has one")
    sustained: tuple[Window, ...] = ()
    cpus: tuple[int, ...] = Field(default=(), description="the cores that it was bound to; empty: all")
    before: DeviceState
    after: DeviceState
    other_load_cores: float | None = Field(default=None, description="cores that other programs kept busy meanwhile")
    measured_earlier: dict[str, str] = Field(
        default_factory=dict,
        description="figure (score, energy, sustained) -> when, where it is of an earlier measurement",
    )

    def against(self, latency: Latency) -> list[str]:
        """The reasons against a verdict from `latency`: its own and those of the whole measurement.

        Reasons of other series alone are left out.
        """
        others = {reason for other in self.latencies if other is not latency for reason in other.unsteady}
        return [reason for reason in self.unstable if reason not in others]

    @property
    def power_mode(self) -> str | None:
        return self.before.power_mode


class QuantizationStep(Record):
    """A way to quantize that mode = "auto" tried. `drop`: the loss against fp32 on the hold-out split."""

    name: str
    in_float: tuple[str, ...] = Field(default=(), description="layers that it leaves in float")
    holdout: float = Field(description="its score on the hold-out split")
    drop: float
    holds: bool = Field(description="the drop is within budget.max_drop_from_fp32")
    taken: bool
    seconds: float


class LayerSensitivity(Record):
    """The cost of quantizing one layer alone.

    This is the mean KL divergence of the model's answers from those of the float model.
    """

    layer: str
    divergence: float
    share: float = Field(description="of all multiplications, in percent")
    in_float: bool


class Share(Record):
    """A share of right answers in percent, with its 95 % interval (Wilson 1927)."""

    value: float
    low: float
    high: float


class ClassScore(Record):
    """The right answers to the test samples of one class, or the number of samples that have a label."""

    name: str
    n: int = Field(description="test samples of the class, or with the label")
    shipped: Share | None = Field(default=None, description="none: of a label, which has no share of right answers")
    teacher: Share | None = Field(default=None, description="none: no teacher, or one that does not know the class")


class Confused(Record):
    """Test samples of one class that the shipped model takes for another class."""

    label: str
    answer: str
    n: int
    of: int = Field(ge=1, description="test samples of the class `label`")
    teacher: int | None = Field(default=None, description="samples that the teacher confuses in the same way")


class Confusion(Record):
    """The shipped model's answers to the test samples, by the samples' classes."""

    n: int
    wrong: int
    counts: tuple[tuple[int, ...], ...] = Field(
        default=(), description="samples: a row for each class, a column for each answer; empty for many classes"
    )
    pairs: tuple[Confused, ...] = Field(default=(), description="the most frequent first")


class Mistake(Record):
    """A test sample that the shipped model gets wrong."""

    sample: int = Field(description="its place in the test split, from 0")
    label: str
    answer: str
    probability: float = Field(description="of the answer, in percent, as the model gives it")
    teacher: str | None = Field(default=None, description="the teacher's answer; none: no teacher")


class Fit(Record):
    """Some test samples' true value and the shipped model's, of one of the values that it estimates."""

    name: str
    points: tuple[tuple[float, float], ...] = Field(description="(true, estimated), by rising true value")


RENAMED = {"accuracy": "score", "holdout_top1": "holdout", "top1": "value", "per_class": "parts"}
AS_THEY_ARE = ("per_class", "versions")  # the keys in these are names of classes and packages


def _of_format_1(value: Any) -> Any:
    """A report of format 1 (edgekd 0.1) with today's names. Objects made in Python have these names already."""
    if isinstance(value, list | tuple):
        return [_of_format_1(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        RENAMED.get(key, key): item if key in AS_THEY_ARE or isinstance(item, BaseModel) else _of_format_1(item)
        for key, item in value.items()
    }


class Report(Record):
    """The complete result of `edgekd build`. `report.json` stores this object; report.html is made from it."""

    format: Literal[2] = Field(default=2, description="1 had `accuracy` and `top1` where this has `score` and `value`")
    recipe: str
    target: str
    target_title: str
    runtime: str = Field(
        default="", description="the target's: onnxruntime, tensorrt or qnn; empty: of an earlier edgekd"
    )
    input: str = Field(default="image", description="the kind of the samples, as data.input")
    task: str = Field(default="classify", description="the kind of the answers, as task.kind")
    created: str = Field(description="UTC, ISO 8601")
    seconds: float = Field(description="wall clock of the build that made it")
    machine: str
    versions: dict[str, str]
    classes: tuple[str, ...]
    teacher: Score | None = Field(default=None, description="none: the student learned without one")
    teacher_size_mb: float | None = None
    teacher_latency: Latency | None = Field(default=None, description="none: not measured")
    student: Score = Field(description="the float student: the fp32 candidate, or the module where that was dropped")
    student_parameters: int
    candidates: tuple[Candidate, ...]
    dropped: tuple[Dropped, ...] = Field(
        default=(), description="candidates that could not be made, opened or run, and why"
    )
    checks: tuple[Check, ...]
    devices: tuple[OnDevice, ...] = Field(default=(), description="`edgekd measure`, one a device and power mode")
    by_class: tuple[ClassScore, ...] = Field(
        default=(), description="a row for each class or label that the test split has; empty for values and masks"
    )
    confusion: Confusion | None = Field(default=None, description="none: other answers than classes")
    mistakes: tuple[Mistake, ...] = Field(
        default=(), description="some of the wrong answers, the most probable first; mistaken.jpg has their pictures"
    )
    fits: tuple[Fit, ...] = Field(default=(), description="of each value, the first ones; empty for other answers")
    curves: tuple[dict[str, float], ...] = Field(
        default=(),
        description="one dict an epoch: epoch, lr, loss, loss/<term>, holdout (in the metric's unit), samples_per_s; "
        "kept: 1 at the epoch that was chosen",
    )
    temperature_curve: tuple[tuple[float, float], ...] = Field(
        default=(),
        description="temperature and the figure on the hold-out split, where the recipe leaves it to the build",
    )
    quantization_curves: tuple[dict[str, float], ...] = Field(
        default=(), description="the same of the quantization-aware training; empty without one"
    )
    quantization_path: tuple[QuantizationStep, ...] = Field(
        default=(), description='what quantize.mode = "auto" tried, in order; empty for a mode that was chosen'
    )
    sensitivity: tuple[LayerSensitivity, ...] = Field(
        default=(), description="the most sensitive first; empty where it did not come to mixed precision"
    )
    warnings: tuple[str, ...] = ()
    summary: tuple[tuple[str, str], ...] = Field(
        default=(), description="what the recipe came to, with the layers that were paired"
    )
    stages: tuple[dict[str, Any], ...] = Field(default=(), description="name, model, key, seconds, reused: the lineage")

    @model_validator(mode="before")
    @classmethod
    def _headline_follows_from_the_checks(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {key: value for key, value in data.items() if key != "headline"}
        if "format" not in known:
            return _of_format_1(known)
        for key in ("curves", "quantization_curves"):  # 0.2 began with the name of 0.1
            if isinstance(rows := known.get(key), list | tuple) and all(isinstance(row, dict) for row in rows):
                known[key] = [{RENAMED.get(name, name): value for name, value in row.items()} for row in rows]
        return known

    @computed_field(description="whether to ship it, and what speaks against that")  # type: ignore[prop-decorator]
    @property
    def headline(self) -> str:
        """'SHIP', 'NOT TO SHIP' or 'NOT DECIDED', with the reasons in short."""
        return self.verdict.headline

    @property
    def verdict(self) -> Verdict:
        """The answer with all reasons and with what is missing."""
        return verdict_of(self.checks, self.candidates, self.runtime)

    def __repr__(self) -> str:
        return f"<Report of {self.recipe} for {self.target}: {self.headline}>"

    def _repr_html_(self) -> str:
        """The verdict and the candidates for a notebook; `edgekd report BUNDLE --html` has the whole page."""
        heads = ("model", metric_in(self.student), "p50 ms", "MB")
        rows = [
            (
                f"{c.name} (in the bundle)" if c.shipped else c.name,
                with_interval(c.score),
                latency_cells(c.latency)[0],
                megabytes(c.size_mb),
            )
            for c in self.candidates
        ]
        table = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        first, *further = map(escape, self.verdict.lines())
        head = "".join(f"<th>{escape(title)}</th>" for title in heads)
        return f"<p><b>{first}</b><br>{'<br>'.join(further)}</p><table><tr>{head}</tr>{table}</table>"

    @property
    def ok(self) -> bool:
        """Whether no check was missed."""
        return all(check.verdict != "missed" for check in self.checks)

    @property
    def chosen(self) -> Candidate:
        """The candidate that ships."""
        return next(candidate for candidate in self.candidates if candidate.shipped)
