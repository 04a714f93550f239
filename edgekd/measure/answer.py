"""Facts, Answer: device_runner.py's answers as checked data. A device's words are shown, never run or used as a path."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekd.errors import DeviceError
from edgekd.figures.figures import DeviceState, Energy, Said, Window, printable

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Block = Annotated[tuple[Milliseconds, ...], Field(min_length=1)]


class Data(BaseModel):
    """Data of an answer. Keys that a newer runner adds are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Place(Data):
    """The place that a bundle is shipped to: rights, room and present content."""

    writable: bool
    free_mb: float
    foreign: bool
    version: Said | None = None


class Facts(Data):
    """A device's hardware, software and state. None means that the device could not tell."""

    machine: Said
    system: Said
    board: Said | None = None
    cpu: Said | None = None
    cores: int
    ram_mb: float | None = None
    python: Said
    l4t: Said | None = None
    jetpack: Said | None = None
    runtimes: dict[Said, Said | None]
    power_modes: dict[Said, int] = Field(default_factory=dict)
    state: DeviceState
    missing: tuple[str, ...] = ()
    free_mb: float | None = None
    to: Place | None = None

    @property
    def title(self) -> str:
        """Board, processor, memory and system, as the machine of a figure."""
        ram = f"{self.ram_mb / 1024:.1f} GB" if self.ram_mb else None
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''}"
        return ", ".join(part for part in (self.board, self.cpu, cores, ram, self.machine, self.system) if part)

    @property
    def able(self) -> list[str]:
        """The runtimes in which the device can measure a bundle."""
        return [name for name in ("onnxruntime", "tensorrt") if self.runtimes.get(name) and self.runtimes.get("numpy")]

    @property
    def software(self) -> str:
        """JetPack and the runtimes, with versions, as text."""
        parts = [
            f"JetPack {self.jetpack}" if self.jetpack else f"L4T {self.l4t}" if self.l4t else "",
            f"Python {self.python}",
        ]
        parts += [f"{name} {version}" for name, version in self.runtimes.items() if version]
        return ", ".join(part for part in parts if part)


class Golden(Data):
    ok: bool
    detail: Said


class Loading(Data):
    load_ms: float | None
    first_ms: float | None
    peak_memory_mb: float | None = None


class Engine(Data):
    seconds: float


class Timed(Data):
    """A timed series: blocks of milliseconds. `states` has a state before the first block and a state after each."""

    batch: int
    threads: int
    transfers: Literal["included", "excluded", "none"]
    blocks_ms: Annotated[tuple[Block, ...], Field(min_length=1)]
    states: tuple[DeviceState, ...]


class Answer(Data):
    """The full answer to a measurement."""

    facts: Facts
    runtime: Said
    golden: Golden
    loading: Loading | None = Field(default=None, description="where it is timed")
    before: DeviceState
    after: DeviceState
    engine: Engine | None = None
    series: tuple[Timed, ...] = ()
    energy: Energy | None = None
    sustained: tuple[Window, ...] = ()
    predictions: tuple[int, ...] | tuple[tuple[float, ...], ...] | tuple[str, ...] | None = None
    other_load_cores: float | None = None
    cpus: tuple[int, ...] = ()
    clocks_used: tuple[Said, ...] = ()
    seconds: float
    model_sha256: str = Field(default="", description="where the file ran alone")


class Proof(Data):
    """The proof that the device computes the stored outputs."""

    detail: Said
    runtime: Said


class Shipped(Proof):
    version: Said
    to: Said = Field(description="where it stands there, in full")
    before: Said | None = None
    lost: Said = Field(default="", description="why there can be no rollback to `before`")
    unchanged: bool = False
    repaired: Said = Field(default="", description="what was wrong with this version where it stood already")


D = TypeVar("D", bound=Data)


def understand(kind: type[D], answer: Any, device: str) -> D:
    """A device's answer, validated as data of `kind`. Raises DeviceError if it does not fit."""
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = printable(".".join(str(step) for step in first["loc"]))
        raise DeviceError(f"{device}: its answer makes no sense at {where or 'its start'}: {first['msg']}") from None
