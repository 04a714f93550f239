"""measure_on, verify_on, ship_to, roll_back: a bundle on a single device, from the probe to checked figures."""

from __future__ import annotations

import base64
import json
import math
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.base.console import say
from edgekd.base.contents import hash_file
from edgekd.base.json_text import parse_json
from edgekd.bundle.manifest import Manifest, tables_of
from edgekd.bundle.read import GOLDEN, MANIFEST, SHIPPED, read_manifest, refuse_not_to_ship, write_manifest
from edgekd.errors import BundleError, DeviceError
from edgekd.figures.candidate import Latency, Origin, Score
from edgekd.figures.figures import OnDevice
from edgekd.measure.answer import Answer, Facts, Loading, Proof, Shipped, Timed, understand
from edgekd.measure.devices import Device, OnLine
from edgekd.measure.devices.process import clean
from edgekd.measure.devices.ssh import PROGRESS
from edgekd.measure.fitness import check_fit, is_target
from edgekd.measure.protocol import Series
from edgekd.measure.remote import ALONE, Parcel, answered, ask, parcel_of, probe, sent, tools_alone
from edgekd.measure.verdict import refusals, unsteady
from edgekd.target import Target
from edgekd.tasks.protocol import Task
from edgekd.tasks.scores import scored

ENGINE_S = 3600  # longest wait for an engine
ANSWER_S = 600
SAMPLE_S = 1.0  # longest wait for a sample of --accuracy
SAMPLES = "samples.npz"


@dataclass(frozen=True)
class Options:
    """Options of a measurement. The defaults are the protocol's minimum. Raises DeviceError for impossible ones."""

    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    cpus: tuple[int, ...] = ()
    runtime: str = ""  # empty: the target's
    power_mode: str | None = None
    sustained_s: float = 0.0
    warmup_s: float = 1.0
    blocks: int = 3
    block_s: float = 1.0
    min_n: int = 60
    energy_s: float = 3.0
    engine_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        smallest = min(min(self.threads, default=0), min(self.batches, default=0))
        if self.blocks < 3 or self.warmup_s < 0 or smallest < 1:
            raise DeviceError(
                f"threads {_list(self.threads)}, batch {_list(self.batches)}, {self.blocks} blocks; threads and batch sizes start "
                "at 1, and at least 3 blocks are needed"
            )
        if self.cpus and max(self.threads) > len(self.cpus):
            raise DeviceError(
                f"{max(self.threads)} threads on {len(self.cpus)} cores ({_list(self.cpus)}) would wait for each other; give --cpus "
                "a core for each thread"
            )
        if self.sustained_s and len(self.threads) * len(self.batches) > 1:
            raise DeviceError("--sustained goes with one number of threads and one batch size")

    def request(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "power_mode"}

    @property
    def about_s(self) -> float:
        """The least duration of a measurement in seconds, without loading.

        The blocks count twice, because a GPU is also timed without copies.
        """
        one = self.warmup_s + self.blocks * self.block_s
        return 2 * len(self.threads) * len(self.batches) * one + self.energy_s + self.sustained_s


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"


@dataclass(frozen=True)
class Samples:
    """Labelled samples for the accuracy.

    The file, with an array by the name of each input, goes to the device; the labels stay here.
    """

    file: Path
    labels: np.ndarray
    task: Task
    kind: str = "classify"  # the recipe's task.kind


@dataclass(frozen=True)
class Trial:
    """The measured part of a bundle: the model and its stored outputs. A changed report leaves them the same."""

    model: Path
    golden: Path
    target: Target
    manifest: Manifest  # format, runtime, precision, inputs and golden go to the device


def trial_of(bundle: Path) -> Trial:
    """The trial of a bundle. Raises BundleError for a bundle that was changed."""
    parcel_of(bundle)
    return Trial(bundle / SHIPPED, bundle / GOLDEN, target_of(bundle), read_manifest(bundle))


def measure_on(device: Device, trial: Trial, options: Options, samples: Samples | None = None) -> OnDevice:
    """Copies missing files to the device, measures there, and judges the answer.

    Raises DeviceError if the device lacks anything or fails.
    """
    found = measure_in_turns(device, {ALONE: trial}, options, samples)[ALONE]
    if isinstance(found, DeviceError):
        raise found
    return found


def measure_in_turns(
    device: Device, trials: Mapping[str, Trial], options: Options, samples: Samples | None = None
) -> dict[str, OnDevice | DeviceError]:
    """Label -> the figures of that trial, or the reason of its failure. Several trials are timed in turns, block by block.

    The trials have the same target. Raises DeviceError if the device lacks anything for all trials.
    """
    target = next(iter(trials.values())).target
    runtime = options.runtime or target.runtime.name
    if options.engine_options and runtime != "tensorrt":
        raise DeviceError(f"--engine-option is for build_engine.py; {runtime} builds no engine")
    if runtime == "tensorrt" and options.threads != (1,):
        raise DeviceError("--threads is for onnxruntime; TensorRT computes on the GPU")
    timed = device.origin != "emulated"  # an emulator's milliseconds have no meaning
    request = {**options.request(), "runtime": runtime, "time": timed}
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        parcel = _parcel(trials, Path(folder))
        if samples is not None:
            parcel.add_tool(SAMPLES, samples.file)
            request |= {"samples": SAMPLES, "kind": samples.kind}
        most = max(options.threads) if runtime == "onnxruntime" else 1
        facts = _fit(device, parcel, target, runtime, power_mode=options.power_mode, threads=most)
        with sent(device, parcel, facts.missing) as files:
            wait_s = ANSWER_S + SAMPLE_S * (len(samples.labels) if samples else 0)
            wait_s += len(trials) * ((ENGINE_S if runtime == "tensorrt" else 0) + 3 * options.about_s)
            answers = ask(device, "measure", {**files, **request}, timeout_s=wait_s, on_line=teller(device))
    if not isinstance(answers, dict) or set(answers) != set(trials):
        raise DeviceError(f"{device.name}: its answer makes no sense: it is not about {', '.join(trials)}")
    outcomes: dict[str, OnDevice | DeviceError] = {}
    for label, trial in trials.items():
        try:
            answer = understand(Answer, answered(answers[label], device.name), device.name)
            outcomes[label] = judged(answer, device.name, device.origin, trial, runtime, samples)
        except DeviceError as error:
            outcomes[label] = error
    return outcomes


def _parcel(trials: Mapping[str, Trial], folder: Path) -> Parcel:
    parcel = tools_alone()
    for label, trial in trials.items():
        parcel.add(label, SHIPPED, trial.model)
        weights = trial.model.with_name(f"{SHIPPED}.data")
        if weights.is_file():  # beside a model above 2 GB
            parcel.add(label, weights.name, weights)
        parcel.add(label, GOLDEN, trial.golden)
        told = trial.manifest
        manifest = Manifest(
            format=told.format, runtime=told.runtime, precision=told.precision, golden=told.golden,
            files=dict(parcel.bundles[label]), **tables_of(told.inputs),
        )  # fmt: skip
        file = folder / f"{label}.{MANIFEST}"
        write_manifest(file, manifest)
        parcel.add(label, MANIFEST, file)
    return parcel


def figures_of(file: Path, trial: Trial, device: str, origin: Origin = "device") -> OnDevice:
    """The figures that device_runner.py wrote when it ran alone, on a device of this name.

    Raises DeviceError if the file holds no figures or belongs to another model.
    """
    try:
        answer = understand(Answer, parse_json(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError) as error:
        raise DeviceError(f"{file} holds no figures: {error}") from error
    if answer.model_sha256 != hash_file(trial.model):
        raise DeviceError(f"{file} was measured on another model than {trial.model}; measure this one")
    runtime = "tensorrt" if answer.runtime.startswith("TensorRT") else "onnxruntime"
    return judged(answer, device, origin, trial, runtime)


def judged(
    answer: Answer, device: str, origin: Origin, trial: Trial, runtime: str, samples: Samples | None = None
) -> OnDevice:
    """The report's figures from an answer, with the reasons against a verdict."""
    facts = answer.facts
    series = [(title(one), Series.of(*one.blocks_ms)) for one in answer.series]
    nothing = Loading(load_ms=None, first_ms=None)
    cost = answer.loading if answer.loading and origin != "emulated" else nothing  # an emulator's costs have no meaning
    states = [answer.before, *(state for one in answer.series for state in one.states), answer.after]
    return OnDevice(
        device=device,
        origin=origin,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=facts.title,
        architecture=facts.machine,
        system=facts.software,
        runtime=answer.runtime,
        model_sha256=hash_file(trial.model),
        is_target=is_target(facts, trial.target, runtime),
        golden_ok=answer.golden.ok,
        golden=answer.golden.detail,
        latencies=tuple(
            _latency(one, taken, facts, answer.runtime, origin)
            for one, (_, taken) in zip(answer.series, series, strict=True)
        ),
        unstable=refusals(series, states, answer.clocks_used, facts.power_modes) if series else (),
        score=_score(answer, samples, origin, device) if samples and answer.golden.ok else None,
        energy=answer.energy,
        load_ms=cost.load_ms,
        first_ms=cost.first_ms,
        peak_memory_mb=cost.peak_memory_mb,
        build_s=answer.engine.seconds if answer.engine else None,
        sustained=answer.sustained,
        cpus=answer.cpus,
        before=answer.before,
        after=answer.after,
        other_load_cores=answer.other_load_cores,
    )


def title(one: Timed) -> str:
    transfers = "" if one.transfers == "none" else f", transfers {one.transfers}"
    return f"batch {one.batch}, {one.threads} thread{'s' if one.threads > 1 else ''}{transfers}"


def _latency(one: Timed, series: Series, facts: Facts, runtime: str, origin: Origin) -> Latency:
    figure = series.latency(
        threads=one.threads, machine=facts.title, runtime=runtime, batch_size=one.batch, origin=origin
    )
    return figure.model_copy(update={"transfers": one.transfers, "unsteady": tuple(unsteady(title(one), series))})


def _score(answer: Answer, samples: Samples, origin: Origin, device: str) -> Score:
    predictions = answer.predictions or ()
    try:
        found = answers_of(predictions, samples.task)
    except ValueError as error:
        raise DeviceError(f"{device}: its predictions are none of this task ({str(error)[:200]})") from error
    if found.shape != samples.labels.shape:
        raise DeviceError(
            f"{device}: predictions {list(found.shape)} came back for {len(predictions)} of {len(samples.labels)} samples; "
            f"{list(samples.labels.shape)} are needed"
        )
    return scored(samples.task, found, samples.labels, answer.runtime, origin)


def answers_of(predictions: Sequence[Any], task: Task) -> np.ndarray:
    """The answers that the task scores: classes as they are, others from outputs or packed masks.

    Raises ValueError for outputs of unequal numbers, and for what is no packed mask of the task's size and classes.
    """
    if not predictions or isinstance(predictions[0], int):
        return np.asarray(predictions)
    if isinstance(predictions[0], str):
        return task.answered(np.stack([_mask(text, task) for text in predictions]))
    with np.errstate(over="ignore"):
        outputs = np.asarray(predictions, np.float32)
    if not np.isfinite(outputs).all():
        raise ValueError("a number beyond those of float32")
    return task.answered(outputs)


def _mask(text: str, task: Task) -> np.ndarray:
    """A packed mask, uint8 `[h, w]`. A device may send anything: no more is unpacked than a mask has."""
    size = math.prod(task.shape[1:])
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    mask = np.frombuffer(content, np.uint8)
    if len(mask) != size or mask.max(initial=0) >= task.outputs:
        raise ValueError(f"a mask of {len(mask)} pixels; {size} of {task.outputs} classes are needed")
    return mask.reshape(task.shape[1:])


def verify_on(device: Device, bundle: Path, runtime: str = "") -> Proof:
    """The proof that the device has the bundle's files and computes the stored outputs. Raises DeviceError if not."""
    target = target_of(bundle)
    runtime = runtime or target.runtime.name
    parcel = parcel_of(bundle)
    facts = _fit(device, parcel, target, runtime)
    with sent(device, parcel, facts.missing) as files:
        answer = ask(
            device,
            "verify",
            {**files, "runtime": runtime, "engine_options": ()},
            timeout_s=ENGINE_S,
            on_line=teller(device),
        )
    return understand(Proof, answer, device.name)


def ship_to(device: Device, bundle: Path, to: str, runtime: str = "", *, anyway: bool = False) -> Shipped:
    """Proves the bundle on the device and puts it at `to` in one step. The version before is kept.

    Raises NotToShipError for a bundle that misses a check, unless `anyway`. Raises DeviceError if shipping fails; the
    version at `to` then stays or returns.
    """
    if not anyway:
        refuse_not_to_ship(bundle)
    if device.origin == "emulated":
        raise DeviceError(f"{device.name} is emulated: it has no place of its own to ship to")
    target = target_of(bundle)
    runtime = runtime or target.runtime.name
    parcel = parcel_of(bundle)
    facts = _fit(device, parcel, target, runtime, to=_place(to))
    if not is_target(facts, target, runtime):
        say(f"{device.name} is no device of the target's kind ({target.title}): {facts.title}, {runtime}")
    with sent(device, parcel, facts.missing) as files:
        request = {**files, "runtime": runtime, "engine_options": (), "to": to}
        answer = ask(device, "ship", request, timeout_s=ENGINE_S, on_line=teller(device))
    return understand(Shipped, answer, device.name)


def roll_back(device: Device, to: str, runtime: str = "") -> Shipped:
    """Proves the version before and puts it back at `to`. Raises DeviceError."""
    parcel = tools_alone()
    facts = probe(device, parcel, to=_place(to))
    with sent(device, parcel, facts.missing) as files:
        answer = ask(
            device, "rollback", {**files, "runtime": runtime, "to": to}, timeout_s=ANSWER_S, on_line=teller(device)
        )
    return understand(Shipped, answer, device.name)


def _place(to: str) -> str:
    if not to.isprintable():
        raise DeviceError(f"--to {to!r} has characters that cannot be shown; give a place without them")
    return to


def _fit(device: Device, parcel: Parcel, target: Target, runtime: str, **wanted: Any) -> Facts:
    """The device's facts, after a check that the bundle fits, before files are copied. Raises DeviceError."""
    facts = probe(device, parcel, to=wanted.get("to"))
    missing_mb = parcel.megabytes(facts.missing)
    check_fit(device.name, facts, target, runtime, missing_mb=missing_mb, whole_mb=parcel.size_mb, **wanted)
    if facts.missing:
        say(f"{device.name}: copying {missing_mb:.2f} MB in {len(facts.missing)} files")
    return facts


def target_of(bundle: Path) -> Target:
    """The target that a bundle was built for. Raises BundleError."""
    manifest = read_manifest(bundle)
    try:
        # the quantization scheme has shaped the graph, but does not describe the device
        told = {key: value for key, value in manifest.target.items() if key != "quantization"}
        return Target.model_validate_json(json.dumps(told))
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{bundle / MANIFEST} does not tell the target; build it again ({reason})") from error


def teller(device: Device) -> OnLine:
    """A function that prints the runner's lines of progress. Other lines are kept for an error."""

    def tell(line: str) -> None:
        if line.startswith(PROGRESS):
            say(f"{device.name}: {clean(line.removeprefix(PROGRESS))}")

    return tell
