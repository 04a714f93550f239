"""The final check: accuracies on the test split, latencies, the choice, the report, the bundle."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch

from edgekd.accuracy import top1_of
from edgekd.choose import Contender, budget_checks, choose
from edgekd.current import fingerprint
from edgekd.data import Samples, open_samples
from edgekd.data.batches import to_tensor
from edgekd.distill.teacher import load_teacher, top1
from edgekd.distill.temperature import FILE as TEMPERATURE
from edgekd.distill.trained import REUSED
from edgekd.errors import DeviceError
from edgekd.export.bundle import write_bundle
from edgekd.export.candidates import MODEL, SAME, TRAINED, as_input, kept_fp32
from edgekd.export.lint import Finding, counted, grouped, lint, listed, runtime_title
from edgekd.measure.estimate import estimate
from edgekd.measure.on_candidates import measure_candidates
from edgekd.measure.protocol import interleave
from edgekd.measure.runners import OnnxRunner, Runner, TorchRunner, machine, peak_memory_mb, versions
from edgekd.quantize.auto import Quantized
from edgekd.recipe import Recipe, file_of
from edgekd.report.model import (
    Accuracy,
    Candidate,
    Check,
    Latency,
    LayerSensitivity,
    OnDevice,
    QuantizationStep,
    Report,
)
from edgekd.report.on_device import decisive, with_device
from edgekd.say import say
from edgekd.stage import Artifact, Cache
from edgekd.target import Target
from edgekd.tasks import open_task, task_notes

AGREEMENT = 99.5  # percent of the test split on which the fake-quantized model and onnxruntime name the same class
GOLDEN = 16
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """What the stages made; candidates and scores by the candidate's name, tasks and their teachers' scores by the task's."""

    samples: Artifact
    seen: Artifact
    tasks: Mapping[str, Artifact]
    trained_teacher: Artifact | None
    teacher_scores: Artifact
    task_scores: Mapping[str, Artifact]
    temperature: Artifact | None
    chain: tuple[Artifact, ...]
    distilled: Artifact
    quantized: Quantized | None
    candidates: Mapping[str, Artifact]
    scores: Mapping[str, Artifact]


def evaluate(recipe: Recipe, target: Target, run: Cache, made: Made, started: float, device: str = "") -> Report:
    """Measure the candidates, here or on the named device, and choose among them; nothing of this is cached."""
    opened = open_samples(made.samples.folder, recipe.data)
    candidates, scores, distilled = made.candidates, made.scores, made.distilled
    for artifact in (*candidates.values(), *scores.values()):
        run.intact(artifact)
    accuracies = {
        name: accuracy(np.load(score / "test.npy"), opened, _runtime(score)) for name, score in scores.items()
    }
    opened_by_teacher = open_samples(made.seen.folder, recipe.teacher_data)
    teacher_runs = _teacher_runner(recipe, opened_by_teacher, made.trained_teacher)
    teacher = accuracy(np.load(made.teacher_scores / "test.npy"), opened, _runtime(made.teacher_scores))
    same = same_as_trained(candidates["int8"], scores["int8"]) if "int8" in candidates else None
    contenders, teacher_latency = _contenders(
        recipe, target, opened, opened_by_teacher, candidates, accuracies, teacher_runs
    )
    findings = {name: lint(artifact / MODEL, target) for name, artifact in candidates.items()}
    faults = {name: _refusal(found) for name, found in findings.items()}
    if same is not None and same < AGREEMENT:
        faults["int8"] = (
            f"only {same:.2f} % of its answers are those of the model that was trained; at least {AGREEMENT} % are asked"
        )
    contenders = [replace(contender, fault=faults[contender.name]) for contender in contenders]
    found = _on_device(device, recipe, target, opened, candidates) if device else {}
    contenders = [as_measured(contender, found[contender.name]) if found else contender for contender in contenders]
    chosen = choose(contenders, recipe.budget, teacher)
    shipped = next(candidate for candidate in chosen if candidate.shipped)
    checks = [
        *budget_checks(shipped, recipe.budget, teacher, accuracies["fp32"]),
        *([_agreement(same, candidates["int8"], scores["int8"], shipped.name)] if same is not None else []),
        _linted(findings[shipped.name], target),
        _device_latency(target),
        *_kept(candidates),
        *_chain(recipe, made.chain),
        *_reused(distilled),
        *_old_and_new(made, opened, scores[shipped.name]),
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
        student=accuracies["fp32"],
        student_parameters=_parameters(distilled / "student.safetensors"),
        candidates=chosen,
        checks=tuple(checks),
        curves=_curves(distilled),
        temperature_curve=_temperatures(made.temperature),
        quantization_curves=_curves(made.quantized.taken.quantized if made.quantized else None),
        quantization_path=_path(made.quantized),
        sensitivity=_sensitivity(made.quantized),
        warnings=(
            *_warnings(recipe, opened, teacher, shipped, made.quantized),
            *_slow(findings[shipped.name]),
        ),
        stages=tuple(artifact.lineage() for artifact in run.artifacts),
    )
    there = found.get(shipped.name)
    return with_device(report, there, recipe.budget.p90_latency_ms) if isinstance(there, OnDevice) else report


def _on_device(
    device: str, recipe: Recipe, target: Target, samples: Samples, candidates: Mapping[str, Artifact]
) -> dict[str, OnDevice | DeviceError]:
    """Every candidate on the device, one after the other."""
    say(f"  measuring {', '.join(candidates)} on {device}")
    trials = {
        name: (artifact / MODEL, golden(artifact / MODEL, name, recipe, samples))
        for name, artifact in candidates.items()
    }
    return measure_candidates(device, target, trials)


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
    latency = latency.model_copy(update={"stable": not found.unstable})
    p90_ms = None if found.unstable else latency.p90_ms
    return replace(
        contender, latency=latency, order_ms=latency.p50_ms, order_origin=found.origin, fault=fault, p90_ms=p90_ms
    )


def golden(model: Path, precision: str, recipe: Recipe, samples: Samples) -> dict[str, npt.NDArray[Any]]:
    """Real inputs, what onnxruntime computes from them, and how far another machine may be from it."""
    ids = np.linspace(0, len(samples.test) - 1, min(GOLDEN, len(samples.test))).astype(np.int64)
    inputs = np.ascontiguousarray(as_input(samples.test.get(ids), recipe.data, recipe.export))
    outputs = OnnxRunner(model).run(inputs)
    # Another machine sums in another order; what a class is decided by is far larger.
    tolerance = (0.05 if precision != "fp32" else 1e-3) * float(np.abs(outputs).max())
    return {"inputs": inputs, "outputs": outputs, "tolerance": np.asarray(tolerance, np.float32)}


def package(folder: Path, recipe: Recipe, target: Target, run: Cache, made: Made, report: Report) -> None:
    """Write the bundle: the model that ships and its fp32 twin, labels, golden outputs, scripts and the report."""
    opened = open_samples(made.samples.folder, recipe.data)
    shipped = made.candidates[report.chosen.name] / MODEL
    channels = opened.image_shape[2]
    write_bundle(
        folder,
        report=report,
        models={"model.onnx": shipped, "model.fp32.onnx": made.candidates["fp32"] / MODEL},
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
    teacher: Runner,
) -> tuple[list[Contender], Latency]:
    """The candidates and the teacher, timed here in turns at batch 1 on one thread.

    Where the target's runtime is another than this host's, the order comes from the device's profile.
    """
    say("  measuring latency on this machine")
    one = np.ascontiguousarray(as_input(samples.test.get(np.zeros(1, np.int64)), recipe.data, recipe.export))
    runners = {name: OnnxRunner(artifact / MODEL) for name, artifact in candidates.items()}
    calls = {name: partial(runner.run, one) for name, runner in runners.items()}
    image = (
        to_tensor(seen.test.get(np.zeros(1, np.int64)), recipe.teacher_data, torch.device("cpu")).contiguous().numpy()
    )
    threads = torch.get_num_threads()
    series = interleave({**calls, "teacher": partial(teacher.run, image)})
    torch.set_num_threads(threads)  # a torch teacher was timed on one
    runs_here = target.runtime.name == "onnxruntime"
    contenders = []
    for name, artifact in candidates.items():
        latency = series[name].latency(threads=1, machine=machine(), runtime=runners[name].name)
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
                peak_memory_mb=peak_memory_mb(file, one),
                order_ms=latency.p50_ms if runs_here else by_profile.low_ms if by_profile else None,
                order_origin="host" if runs_here else "estimate",
                estimate=by_profile,
            )
        )
    return contenders, series["teacher"].latency(threads=teacher.threads, machine=machine(), runtime=teacher.name)


def _teacher_runner(recipe: Recipe, samples: Samples, trained: Artifact | None) -> Runner:
    """The teacher on the processor, in the runtime that it was given for."""
    if recipe.teacher.model.startswith("onnx:"):
        return OnnxRunner(Path(recipe.teacher.model.removeprefix("onnx:")))
    return TorchRunner(load_teacher(recipe.teacher, trained, samples).cpu())


def same_as_trained(int8: Artifact, scores: Artifact) -> float:
    """Percent of the test split that the fake-quantized model and the exported one in onnxruntime put in one class.

    Where the rest is fp16 the graph is compared before that: a processor rounds each value between two layers to half
    precision, an engine of TensorRT computes the layer and the rounding to int8 in one.
    """
    deployed = int8 / SAME if (int8 / SAME).exists() else scores / "test.npy"
    return _same(int8 / TRAINED, deployed)


def _same(one: Path, other: Path) -> float:
    """Percent of the samples that two files of logits put in the same class."""
    return 100 * float((np.load(one).argmax(1) == np.load(other).argmax(1)).mean())


def _kept(candidates: Mapping[str, Artifact]) -> Iterator[Check]:
    """What stays fp32 in half-precision exports, and why."""
    for name, artifact in candidates.items():
        kept = kept_fp32(artifact)
        if kept:
            named = "; ".join(f"{found.node}: {found.why}" for found in kept[:3]) + ("; ..." if len(kept) > 3 else "")
            yield Check(name=f"{name} keeps operators in fp32", verdict="note", found=f"{len(kept)}: {named}")


def _agreement(same: float, int8: Artifact, scores: Artifact, shipped: str) -> Check:
    n = len(np.load(int8 / TRAINED, mmap_mode="r"))
    found = f"same top-1 as the fake-quantized model on {same:.2f} % of {n} test samples"
    if (int8 / SAME).exists():
        found += f" with fp32 between the integer layers; with fp16, as it ships, on {_same(int8 / TRAINED, scores / 'test.npy'):.2f} %"
    return Check(
        name="int8 computes what was trained", verdict="pass" if same >= AGREEMENT else "missed" if shipped == "int8" else "note",
        found=found, limit=f"at least {AGREEMENT} %",
    )  # fmt: skip


def _refusal(findings: Sequence[Finding]) -> str:
    """Why the target's runtime refuses a candidate; empty where it does not."""
    refused = [finding for finding in findings if finding.severity == "error"]
    return f"{refused[0].node}: {refused[0].why}" if refused else ""


def _linted(findings: Sequence[Finding], target: Target) -> Check:
    refused = any(finding.severity == "error" for finding in findings)
    return Check(
        name=f"lint for {runtime_title(target)}", verdict="missed" if refused else "pass", found=counted(findings),
        limit="no errors",
    )  # fmt: skip


def _slow(findings: Sequence[Finding]) -> Iterator[str]:
    """What lint warns of in the model that ships."""
    for finding, nodes in grouped([finding for finding in findings if finding.severity != "note"]):
        yield f"lint, {listed(nodes)}: {finding.why}; {finding.remedy}"


def _chain(recipe: Recipe, chain: Sequence[Artifact]) -> Iterator[Check]:
    """How good those between the teacher and the student became."""
    assistants = [f"assistant {model.model}" for model in recipe.student.assistants]
    names = [*assistants, *(f"generation {n + 1}" for n in range(recipe.distill.generations))]
    for name, trained in zip(names, chain, strict=True):
        found = f"{_curves(trained)[-1]['holdout_top1']:.2f} % on the hold-out split"
        yield Check(name=name, verdict="note", found=found)


def _reused(distilled: Artifact) -> Iterator[Check]:
    """What simkd adds to the student that ships."""
    if (distilled / REUSED).exists():
        added = json.loads((distilled / REUSED).read_text())["added_parameters"]
        found = f"projector and the teacher's classifier: {added:,} parameters that the student alone would not have"
        yield Check(name="simkd adds to what ships", verdict="note", found=found)


def _old_and_new(made: Made, samples: Samples, scores: Artifact) -> Iterator[Check]:
    """Where the teacher knows the first classes only: how much of them the student kept, and how well it learnt the others."""
    teacher, student = np.load(made.teacher_scores / "test.npy"), np.load(scores / "test.npy")
    known = teacher.shape[1]
    if known == student.shape[1]:
        return
    labels = samples.test.labels
    for name, rows, by_teacher in (("old", labels < known, True), ("new", labels >= known, False)):
        found = f"{top1(student[rows], labels[rows]):.2f} % of {int(rows.sum())} test samples"
        if by_teacher:
            found += f" (the teacher {top1(teacher[rows], labels[rows]):.2f} %)"
        yield Check(name=f"{name} classes", verdict="note", found=found)


def _device_latency(target: Target) -> Check:
    return Check(
        name="latency on the device",
        verdict="not measured",
        found=f"needs the device ({target.title}): edgekd measure BUNDLE --device NAME",
        origin="not measured",
    )


def _teacher_size_mb(recipe: Recipe) -> float | None:
    file = file_of(recipe.teacher.weights or recipe.teacher.model)
    return round(file.stat().st_size / 1e6, 3) if file is not None and file.is_file() and file.suffix != ".py" else None


def _parameters(weights: Path) -> int:
    with safetensors.safe_open(weights, "np") as file:
        names = file.keys()
        learnt = [name for name in names if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
        return sum(math.prod(file.get_slice(name).get_shape()) for name in learnt)


def _temperatures(tuned: Artifact | None) -> tuple[tuple[float, float], ...]:
    return () if tuned is None else tuple(json.loads((tuned / TEMPERATURE).read_text())["curve"])


def _curves(trained: Artifact | None) -> tuple[dict[str, float], ...]:
    """What the training loop logged, a dict an epoch; empty where nothing was trained."""
    if trained is None or not (trained / "metrics.jsonl").exists():
        return ()
    return tuple(json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines())


def _path(quantized: Quantized | None) -> tuple[QuantizationStep, ...]:
    """The rungs that "auto" tried, the one that was taken marked; empty where nothing was to be decided."""
    if quantized is None:
        return ()
    return tuple(
        QuantizationStep(
            name=rung.name, in_float=rung.plan.in_float, holdout_top1=rung.top1, drop=rung.drop, holds=rung.holds,
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


def _warnings(
    recipe: Recipe, samples: Samples, teacher: Accuracy, shipped: Candidate, quantized: Quantized | None
) -> Iterator[str]:
    """What no budget forbids and a careful reader would want to know."""
    if quantized is not None:
        yield from map(str, quantized.float_operators)
        if not quantized.taken.holds:
            yield (
                f"no way to quantize keeps budget.max_drop_from_fp32 on the hold-out split; int8 is {quantized.taken.name}, the "
                f"most accurate of {len(quantized.tried)}"
            )
    if samples.skipped:
        yield f"{len(samples.skipped)} images do not decode and were left out, the first: {samples.skipped[0]}"
    if recipe.data.train == recipe.data.test and not recipe.data.train.startswith("python:"):  # that is told the split
        yield "train and test are the same samples: the accuracies say nothing about new ones"
    if recipe.data.is_synthetic:
        yield f"the training images are synthetic ({recipe.data.train}): made from the teacher, none is real"
    if not any(loss.weight for loss in recipe.distill.losses):
        yield "no loss reads the teacher (distill.losses): the student learned from labels alone"
    counts = np.bincount(samples.test.labels)
    share = 100 * float(counts.max()) / len(samples.test)
    for name, found in (("the teacher", teacher), (f"{shipped.name}, which ships,", shipped.accuracy)):
        if found.low <= share:
            yield (
                f"{name} is right on {found.top1:.2f} %, no better than always naming the most frequent class "
                f"({samples.classes[int(counts.argmax())]}, {share:.2f} %)"
            )
