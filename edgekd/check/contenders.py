"""Contenders: the candidates with their latencies, measured in turns on this machine or on the device."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edgekd.base.console import say
from edgekd.cache.stage import Artifact
from edgekd.check.choose import Contender
from edgekd.check.golden import golden_of
from edgekd.data import Unseen
from edgekd.data.batches import arguments_of
from edgekd.errors import DeviceError, ModelError
from edgekd.export.shapes import Sizes
from edgekd.figures.candidate import Estimate, Latency, Score
from edgekd.figures.devices import decisive
from edgekd.figures.figures import OnDevice
from edgekd.inputs.protocol import at_most
from edgekd.measure.estimate.estimate import estimate
from edgekd.measure.fitness import is_architecture
from edgekd.measure.on_candidates import measure_candidates
from edgekd.measure.protocol import Call, Timing
from edgekd.measure.timings import Timings, time_models
from edgekd.models.adapt import resized
from edgekd.models.reference import feeds_of
from edgekd.recipe import Recipe
from edgekd.runtime.runners import OnnxRunner, Runner, TorchRunner, machine
from edgekd.steps.export import MODEL, as_input
from edgekd.steps.problem import Problem, Problems
from edgekd.steps.trained import Trained
from edgekd.target import Target


@dataclass(frozen=True)
class TimedHere:
    """The candidates and the teacher's latency, timed in turns on this machine.

    failed: name -> the reason why a candidate could not be timed.
    """

    contenders: list[Contender]
    teacher: Latency | None
    failed: Mapping[str, str]


def timed_here(
    recipe: Recipe,
    target: Target,
    problems: Problems,
    candidates: Mapping[str, Artifact],
    scores: Mapping[str, Score],
    teacher: Trained | None,
    timing: Timing,
) -> TimedHere:
    """The candidates and the teacher, timed here in turns at batch 1 on one thread.

    If the target has another runtime or architecture than this host, the order comes from the device's profile.
    """
    say("  measuring latency on this machine")
    test, others, runner = problems.student.open_test(), {}, None
    one = as_input(test.input, test.get(np.zeros(1, np.int64)), recipe.export)
    if teacher is not None:
        runner = _teacher_runner(teacher, problems.teacher)
        others["teacher"] = _teacher_call(runner, teacher, problems.teacher)
    sizes = {name: array.shape for name, array in one.items()}  # of a free size the longest, which is timed
    threads = torch.get_num_threads()
    timings = time_models({name: artifact / MODEL for name, artifact in candidates.items()}, one, others, timing)
    torch.set_num_threads(threads)  # a torch teacher was timed on one thread
    found = [
        _contender(name, artifact / MODEL, scores[name], timings, target, sizes)
        for name, artifact in candidates.items()
        if name not in timings.failed
    ]
    own = timings.series.get("teacher")
    latency = (
        own.latency(threads=runner.threads, machine=machine(), runtime=runner.name)
        if own is not None and runner is not None
        else None
    )
    return TimedHere(found, latency, timings.failed)


def _contender(name: str, file: Path, score: Score, timings: Timings, target: Target, sizes: Sizes) -> Contender:
    # Speed on this processor says little about another architecture: x86, for example, computes fp16 in fp32.
    runs_here = target.runtime.name == "onnxruntime" and is_architecture(platform.machine(), target)
    timed, by_profile = timings.series.get(name), estimate(file, target, sizes)
    latency = timed.latency(threads=1, machine=machine(), runtime=timings.runtimes[name]) if timed else None
    size = sum(part.stat().st_size for part in file.parent.glob(f"{MODEL}*"))  # with its .data
    return Contender(
        name=name,
        path=file,
        size_mb=round(size / 1e6, 4),
        score=score,
        latency=latency,
        peak_memory_mb=timings.memory_mb.get(name),
        order_ms=latency.p50_ms if runs_here and latency else _low_ms(by_profile, runs_here),
        order_origin="host" if runs_here else "estimate",
        estimate=by_profile,
        same_runtime=target.runtime.name == "onnxruntime" and not runs_here,
    )


def _low_ms(by_profile: Estimate | None, runs_here: bool) -> float | None:
    """The low end of the estimate; None if latency is measured here, because estimates and measurements do not mix."""
    return None if runs_here or by_profile is None else by_profile.low_ms


def _teacher_runner(teacher: Trained, problem: Problem) -> Runner:
    """The teacher on the processor: in onnxruntime for an ONNX file, else in torch."""
    if teacher.network.model.startswith("onnx:"):
        return OnnxRunner(Path(teacher.network.model.removeprefix("onnx:")))
    return TorchRunner(teacher.load_teacher(problem.open()).cpu())


def _teacher_call(runner: Runner, teacher: Trained, problem: Problem) -> Call:
    """A call that runs the teacher on one test sample, in the form and size that the teacher takes."""
    test = problem.open_test()
    arguments = arguments_of(test.input, test.get(np.zeros(1, np.int64)), torch.device("cpu"))
    if (size := teacher.network.size) is not None:
        arguments = resized(arguments[0], size), *arguments[1:]
    arrays = [each.contiguous().numpy() for each in arguments]
    if isinstance(runner, OnnxRunner):
        return runner.timed(feeds_of(runner.types, arrays))
    return partial(runner.run, dict(zip([field.name for field in test.input.arguments], arrays, strict=True)))


def measured_on(
    device: str, recipe: Recipe, target: Target, test: Unseen, candidates: Mapping[str, Artifact]
) -> dict[str, OnDevice | DeviceError]:
    """The figures of every candidate on the device, measured in turns; a DeviceError for a candidate that fails."""
    say(f"  measuring {', '.join(candidates)} on {device}")
    trials, failed = {}, {}
    for name, artifact in candidates.items():
        try:
            trials[name] = artifact / MODEL, golden_of(artifact / MODEL, name, recipe, test)
        except ModelError as error:
            failed[name] = DeviceError(f"not measured there: {error}")
    return {**measure_candidates(device, target, trials, at_most(test.input.fields)), **failed}


def as_measured(contender: Contender, measured: OnDevice | DeviceError) -> Contender:
    """The contender with the device's figures for its order. A contender that fails there cannot ship."""
    if isinstance(measured, DeviceError):
        return replace(
            contender, latency=None, order_ms=None, order_origin="device", fault=str(measured).splitlines()[0]
        )
    fault = contender.fault or (
        "" if measured.golden_ok is not False else f"on {measured.device} it computes something else: {measured.golden}"
    )
    latency = decisive(measured)
    if latency is None:
        return replace(contender, latency=None, order_ms=None, order_origin=measured.origin, fault=fault)
    against = measured.against(latency)
    p90_ms = None if against else latency.p90_ms
    latency = latency.model_copy(update={"stable": not against})
    return replace(
        contender, latency=latency, order_ms=latency.p50_ms, order_origin=measured.origin, fault=fault, p90_ms=p90_ms
    )
