"""The JSON that commands print with --json: a record for each command, described in docs/json.md."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgekd.figures.candidate import Estimate, Record
from edgekd.figures.figures import OnDevice, Report


class Output(Record):
    """What a command prints. `format` grows when a key is renamed, removed or means something else; new keys may come."""

    format: Literal[1] = 1


class BuiltBundle(Record):
    """A target's bundle."""

    folder: str
    is_new: bool = Field(description="built now; false: nothing had changed since it was built")
    report: Report = Field(description="as in report.json")


class BuildOutput(Output):
    """`edgekd build --json`."""

    bundles: tuple[BuiltBundle, ...] = Field(description="one for each --target, in their order")


class ReportOutput(Output):
    """`edgekd report --json`."""

    report: Report = Field(description="as in report.json")


class MeasureOutput(Output):
    """`edgekd measure --json`."""

    devices: tuple[OnDevice, ...] = Field(description="the figures of this measurement, in the order of --device")
    report: Report = Field(description="the bundle's report with these figures")


class VerifiedRow(Record):
    """A file or a comparison."""

    what: str
    ok: bool
    detail: str


class VerifyOutput(Output):
    """`edgekd verify --json`, with and without --device."""

    ok: bool
    rows: tuple[VerifiedRow, ...]


class TargetsOutput(Output):
    """`edgekd targets --json`, and of one target `edgekd targets NAME --json`."""

    targets: tuple[dict[str, Any], ...] = Field(description="a target file's tables each (docs/targets.md)")


class EstimateOutput(Output):
    """`edgekd targets NAME --model FILE --json`."""

    estimate: Estimate


class LintFinding(Record):
    """What lint found at a node."""

    severity: Literal["error", "warning", "note"]
    rule: str
    node: str
    why: str
    remedy: str


class LintOutput(Output):
    """`edgekd lint --json`."""

    model: str
    target: str
    runtime: str
    findings: tuple[LintFinding, ...] = Field(description="errors first")


class CachedStage(Record):
    """A stored stage, or one that did not end."""

    name: str = Field(description="the stage and its key")
    size_mb: float
    age_days: float = Field(description="since it was last used")
    made_for: str = Field(description="recipe and target of the first build that used it")
    is_finished: bool


class CacheOutput(Output):
    """`edgekd cache --json`."""

    folder: str
    size_mb: float
    stages: tuple[CachedStage, ...] = Field(description="most recently used first")


class NamedDevice(Record):
    """A device that has a name here."""

    name: str
    address: str


class DevicesOutput(Output):
    """`edgekd device list --json`."""

    devices: tuple[NamedDevice, ...]


class DoctorRow(Record):
    """A part of this machine: what was found, and where it lacks something, what to do."""

    part: str
    found: str
    remedy: str = ""


class DoctorOutput(Output):
    """`edgekd doctor --json`."""

    rows: tuple[DoctorRow, ...]


OUTPUTS: tuple[type[Output], ...] = (
    BuildOutput, ReportOutput, MeasureOutput, VerifyOutput, TargetsOutput, EstimateOutput, LintOutput, CacheOutput, DevicesOutput, DoctorOutput,
)  # fmt: skip
