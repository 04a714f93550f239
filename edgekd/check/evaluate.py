"""The final check: accuracies on the test split, latencies, the choice, the report, the bundle."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import torch

from edgekd.base.console import say
from edgekd.bundle.golden import Golden
from edgekd.bundle.read import SHIPPED, read_manifest, sha256
from edgekd.bundle.write import write_bundle
from edgekd.cache.fingerprint import fingerprint
from edgekd.cache.stage import Artifact, Cache
from edgekd.check import lines as checks
from edgekd.check.choose import Contender, budget_checks, choose
from edgekd.check.doubts import doubts
from edgekd.check.summary import summary
from edgekd.check.tasks import open_task, task_notes
from edgekd.data import Samples, open_samples
from edgekd.data.batches import to_tensor
from edgekd.errors import DeviceError, EdgekdError, ExportError, ModelError
from edgekd.export.lint import lint
from edgekd.figures.accuracy import top1_of
from edgekd.figures.devices import decisive, not_yet, with_device
from edgekd.figures.figures import (
    Accuracy,
    Dropped,
    Estimate,
    Latency,
    LayerSensitivity,
    OnDevice,
    QuantizationStep,
    Report,
)
from edgekd.measure.estimate.estimate import estimate
from edgekd.measure.fitness import is_architecture
from edgekd.measure.on_candidates import measure_candidates
from edgekd.measure.protocol import Call
from edgekd.measure.timings import time_models
from edgekd.models.adapt import resized
from edgekd.recipe import Distill, Recipe, Teacher, file_of
from edgekd.runtime.runners import OnnxRunner, Runner, TorchRunner, machine, versions
from edgekd.steps.attempts import none_left
from edgekd.steps.export import MODEL, as_input
from edgekd.steps.ladder import Quantized
from edgekd.steps.record import load_teacher
from edgekd.steps.temperature import FILE as TEMPERATURE
from edgekd.target import Target

GOLDEN = 16
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """What the stages made; candidates and scores by the candidate's name, tasks and their teachers' scores by the task's.

    dropped: candidate -> why it is none; in_torch: the float student's scores where fp32 is among these.
    """

    samples: Artifact
    seen: Artifact
    tasks: Mapping[str, Artifact]
    trained_teacher: Artifact | None
    teacher_scores: Artifact | None
    task_scores: Mapping[str, Artifact]
    temperature: Artifact | None
    chain: tuple[Artifact, ...]
    distilled: Artifact
    quantized: Quantized | None
    candidates: Mapping[str, Artifact]
    scores: Mapping[str, Artifact]
    settings: Distill
    dropped: Mapping[str, str]
    in_torch: Artifact | None


def evaluate(recipe: Recipe, target: Target, run: Cache, made: Made, started: float, device: str = "") -> Report:
    """Measure the candidates, here or on the named device, and choose among them; nothing of this is cached."""
    opened = open_samples(made.samples.folder, recipe.data)
    candidates, scores, distilled = dict(made.candidates), made.scores, made.distilled
    for artifact in (*candidates.values(), *scores.values()):
        run.intact(artifact)
    accuracies = {
        name: accuracy(np.load(score / "test.npy"), opened, _runtime(score)) for name, score in scores.items()
    }
    in_float = accuracies.get("fp32") or _in_torch(made, opened)
    opened_by_teacher = open_samples(made.seen.folder, recipe.teacher_data)
    teacher_runs, teacher = None, None
    if made.teacher_scores is not None:
        teacher_runs = _teacher_runner(recipe.teachers[0], opened_by_teacher, made.trained_teacher)
        teacher = accuracy(np.load(made.teacher_scores / "test.npy"), opened, _runtime(made.teacher_scores))
    contenders, teacher_latency, failed = _contenders(
        recipe, target, opened, opened_by_teacher, candidates, accuracies, teacher_runs
    )
    dropped = {**made.dropped, **failed}
    for name, reason in failed.items():
        say(f"  {name} was dropped: {reason}")
        candidates.pop(name, None)
    if not candidates:
        raise ExportError(none_left(dropped))
    contenders = [replace(contender, in_float=in_float) for contender in contenders]
    same = checks.same_as_trained(candidates["int8"], scores["int8"]) if "int8" in candidates else None
    findings = {name: lint(artifact / MODEL, target) for name, artifact in candidates.items()}
    faults = {name: checks.refusal(found) for name, found in findings.items()}
    if same is not None and same < checks.AGREEMENT:
        faults["int8"] = (
            f"only {same:.2f} % of its answers are those of the model that was trained; at least {checks.AGREEMENT} % are asked"
        )
    contenders = [replace(contender, fault=faults[contender.name]) for contender in contenders]
    found = _on_device(device, recipe, target, opened, candidates) if device else {}
    contenders = [as_measured(contender, found[contender.name]) if found else contender for contender in contenders]
    contenders = checks.with_floors(contenders, recipe.budget, opened, scores, made.teacher_scores)
    chosen = choose(contenders, recipe.budget, teacher)
    shipped = next(candidate for candidate in chosen if candidate.shipped)
    said = [
        *budget_checks(contenders, shipped.name, recipe.budget, teacher),
        *(checks.agreement(same, candidates["int8"], scores["int8"], shipped.name) if same is not None else ()),
        *checks.under_teacher(recipe, shipped, teacher),
        checks.linted(findings[shipped.name], target),
        not_yet(target.title),
        *checks.kept_in_fp32(candidates),
        *checks.chain_found(recipe, made.chain),
        *checks.reused(distilled),
        *checks.old_and_new(made.teacher_scores, scores[shipped.name], opened),
        *task_notes(recipe, made.tasks, made.task_scores, scores[shipped.name].folder),
    ]
    report = Report(
        recipe=recipe.name,
        target=target.name,
        target_title=target.title,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - started, 1),
        machine=machine(),
        versions=versions(),
        classes=opened.classes,
        teacher=teacher,
        teacher_latency=teacher_latency,
        teacher_size_mb=_teacher_size_mb(recipe),
        student=in_float,
        student_parameters=_parameters(distilled / "student.safetensors"),
        candidates=chosen,
        dropped=tuple(Dropped(name=name, reason=reason) for name, reason in dropped.items()),
        checks=tuple(said),
        curves=checks.curves(distilled),
        temperature_curve=_temperatures(made.temperature),
        quantization_curves=checks.curves(made.quantized.taken.quantized if made.quantized else None),
        quantization_path=_path(made.quantized),
        sensitivity=_sensitivity(made.quantized),
        warnings=(
            *checks.warnings(recipe, opened, teacher, shipped, made.quantized),
            *checks.slow(findings[shipped.name]),
            *doubts(opened, shipped.name, np.load(scores[shipped.name] / "test.npy")),
        ),
        summary=tuple(summary(recipe, made.settings)),
        stages=tuple(artifact.lineage() for artifact in run.artifacts),
    )
    there = found.get(shipped.name)
    return with_device(report, there, recipe.budget.p90_latency_ms) if isinstance(there, OnDevice) else report


def _on_device(
    device: str, recipe: Recipe, target: Target, samples: Samples, candidates: Mapping[str, Artifact]
) -> dict[str, OnDevice | DeviceError]:
    """Every candidate on the device, in turns."""
    say(f"  measuring {', '.join(candidates)} on {device}")
    trials, failed = {}, {}
    for name, artifact in candidates.items():
        try:
            trials[name] = artifact / MODEL, golden(artifact / MODEL, name, recipe, samples)
        except ModelError as error:
            failed[name] = DeviceError(f"not measured there: {error}")
    return {**measure_candidates(device, target, trials), **failed}


def as_measured(contender: Contender, found: OnDevice | DeviceError) -> Contender:
    """A contender ordered by what the device says of it; one that fails there cannot ship."""
    if isinstance(found, DeviceError):
        return replace(contender, latency=None, order_ms=None, order_origin="device", fault=str(found).splitlines()[0])
    fault = contender.fault or (
        "" if found.golden_ok is not False else f"on {found.device} it computes something else: {found.golden}"
    )
    latency = decisive(found)
    if latency is None:
        return replace(contender, latency=None, order_ms=None, order_origin=found.origin, fault=fault)
    against = found.against(latency)
    p90_ms = None if against else latency.p90_ms
    latency = latency.model_copy(update={"stable": not against})
    return replace(
        contender, latency=latency, order_ms=latency.p50_ms, order_origin=found.origin, fault=fault, p90_ms=p90_ms
    )


def golden(model: Path, precision: str, recipe: Recipe, samples: Samples) -> Golden:
    """Real inputs and what onnxruntime computes from them."""
    ids = np.linspace(0, len(samples.test) - 1, min(GOLDEN, len(samples.test))).astype(np.int64)
    inputs = np.ascontiguousarray(as_input(samples.test.get(ids), recipe.data, recipe.export))
    # Another machine sums in another order; what a class is decided by is far larger.
    return Golden.of(model, inputs, share=0.05 if precision != "fp32" else 1e-3)


def with_earlier_devices(report: Report, folder: Path, model: Path, p90_budget_ms: float | None) -> Report:
    """The report with what devices said of this very model in the bundle that `folder` holds."""
    try:
        earlier = Report.model_validate_json((folder / "report.json").read_bytes())
        same = read_manifest(folder)["files"][SHIPPED] == sha256(model)
    except (OSError, ValueError, KeyError, EdgekdError):  # none, or not of this edgekd
        return report
    measured = {(device.device, device.power_mode) for device in report.devices}
    for device in earlier.devices if same else ():
        if (device.device, device.power_mode) not in measured:
            report = with_device(report, device, p90_budget_ms)
    return report


def package(folder: Path, recipe: Recipe, target: Target, run: Cache, made: Made, report: Report) -> None:
    """Write the bundle: the model that ships and its fp32 twin, labels, golden outputs, scripts and the report."""
    opened = open_samples(made.samples.folder, recipe.data)
    shipped = made.candidates[report.chosen.name] / MODEL
    channels = opened.image_shape[2]
    among = {candidate.name for candidate in report.candidates}
    twin = {"model.fp32.onnx": made.candidates["fp32"] / MODEL} if "fp32" in among else {}
    write_bundle(
        folder,
        report=report,
        models={"model.onnx": shipped, **twin},
        labels=opened.classes,
        golden=golden(shipped, report.chosen.name, recipe, opened),
        manifest={
            "fingerprint": fingerprint(recipe, target, run),
            "recipe": recipe.model_dump(mode="json"),
            "output": recipe.export.output,
            "tasks": {task.name: open_task(recipe, task, made.tasks).classes for task in recipe.tasks},
            "preprocess": {
                key: [float(v) for v in np.broadcast_to(getattr(recipe.data, key), channels)] for key in ("mean", "std")
            },
        },
        target=target,
    )


def accuracy(logits: Scores, samples: Samples, runtime: str) -> Accuracy:
    """Top-1 on the test split with its interval; logits `[samples, classes]`."""
    return top1_of(logits.argmax(1), samples.test.labels, samples.classes, runtime)


def _in_torch(made: Made, samples: Samples) -> Accuracy:
    """The float student's, where its export was dropped."""
    if made.in_torch is None:
        raise ExportError(none_left(dict(made.dropped)))
    return accuracy(np.load(made.in_torch / "test.npy"), samples, _runtime(made.in_torch))


def _runtime(scores: Artifact) -> str:
    """What computed the logits of a stage, with its version."""
    return str(json.loads((scores / "runtime.json").read_text()))


def _contenders(
    recipe: Recipe,
    target: Target,
    samples: Samples,
    seen: Samples,
    candidates: Mapping[str, Artifact],
    accuracies: Mapping[str, Accuracy],
    teacher: Runner | None,
) -> tuple[list[Contender], Latency | None, dict[str, str]]:
    """The candidates and the teacher, timed here in turns at batch 1 on one thread; and why one failed at that.

    Where the target's runtime or architecture is another than this host's, the order comes from the device's profile.
    """
    say("  measuring latency on this machine")
    one = np.ascontiguousarray(as_input(samples.test.get(np.zeros(1, np.int64)), recipe.data, recipe.export))
    others: dict[str, Call] = {}
    if teacher is not None:
        image = to_tensor(seen.test.get(np.zeros(1, np.int64)), recipe.teacher_data, torch.device("cpu"))
        image = resized(image, recipe.teachers[0].size or seen.image_shape[:2])
        given = image.contiguous().numpy()
        others["teacher"] = teacher.timed(given) if isinstance(teacher, OnnxRunner) else partial(teacher.run, given)
    threads = torch.get_num_threads()
    timings = time_models({name: artifact / MODEL for name, artifact in candidates.items()}, one, others)
    torch.set_num_threads(threads)  # a torch teacher was timed on one
    # What is fast on this processor says little about one of another architecture: x86, say, computes fp16 in fp32.
    runs_here = target.runtime.name == "onnxruntime" and is_architecture(platform.machine(), target)
    contenders = []
    for name, artifact in candidates.items():
        if name in timings.failed:
            continue
        timed = timings.series.get(name)
        latency = timed.latency(threads=1, machine=machine(), runtime=timings.runtimes[name]) if timed else None
        file = artifact / MODEL
        by_profile = estimate(file, target)
        contenders.append(
            Contender(
                name=name,
                path=file,
                size_mb=round(
                    sum(part.stat().st_size for part in file.parent.glob(f"{MODEL}*")) / 1e6, 4
                ),  # with its .data
                accuracy=accuracies[name],
                latency=latency,
                peak_memory_mb=timings.memory_mb.get(name),
                order_ms=latency.p50_ms if runs_here and latency else _low_ms(by_profile, runs_here),
                order_origin="host" if runs_here else "estimate",
                estimate=by_profile,
                same_runtime=target.runtime.name == "onnxruntime" and not runs_here,
            )
        )
    own = timings.series.get("teacher")
    if teacher is None or own is None:
        return contenders, None, timings.failed
    latency = own.latency(threads=teacher.threads, machine=machine(), runtime=teacher.name)
    return contenders, latency, timings.failed


def _low_ms(by_profile: Estimate | None, runs_here: bool) -> float | None:
    """The estimate's low end, which orders nothing beside what was measured."""
    return None if runs_here or by_profile is None else by_profile.low_ms


def _teacher_runner(teacher: Teacher, samples: Samples, trained: Artifact | None) -> Runner:
    """The teacher on the processor, in the runtime that it was given for."""
    if teacher.model.startswith("onnx:"):
        return OnnxRunner(Path(teacher.model.removeprefix("onnx:")))
    return TorchRunner(load_teacher(teacher, trained, samples).cpu())


def _teacher_size_mb(recipe: Recipe) -> float | None:
    if recipe.teacher is None:
        return None
    file = file_of(recipe.teacher.weights or recipe.teacher.model)
    return round(file.stat().st_size / 1e6, 3) if file is not None and file.is_file() and file.suffix != ".py" else None


def _parameters(weights: Path) -> int:
    with safetensors.safe_open(weights, "np") as file:
        names = file.keys()
        learnt = [name for name in names if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
        return sum(math.prod(file.get_slice(name).get_shape()) for name in learnt)


def _temperatures(tuned: Artifact | None) -> tuple[tuple[float, float], ...]:
    return () if tuned is None else tuple(json.loads((tuned / TEMPERATURE).read_text())["curve"])


def _path(quantized: Quantized | None) -> tuple[QuantizationStep, ...]:
    """The rungs that "auto" tried, the one that was taken marked; empty where nothing was to be decided."""
    if quantized is None:
        return ()
    return tuple(
        QuantizationStep(
            name=rung.name, in_float=rung.plan.in_float, holdout_top1=rung.top1, drop=rung.drop, holds=bool(rung.holds),
            taken=rung is quantized.taken, seconds=round(rung.quantized.seconds, 1),
        )
        for rung in quantized.tried
        if rung.top1 is not None and rung.drop is not None
    )  # fmt: skip


def _sensitivity(quantized: Quantized | None) -> tuple[LayerSensitivity, ...]:
    if quantized is None:
        return ()
    total = sum(layer.multiplications for layer in quantized.sensitivities)
    kept = quantized.taken.plan.in_float
    return tuple(
        LayerSensitivity(
            layer=layer.layer, divergence=layer.divergence, share=round(100 * layer.multiplications / total, 2),
            in_float=layer.layer in kept,
        )
        for layer in quantized.sensitivities
    )  # fmt: skip
