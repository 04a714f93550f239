"""evaluate: measures accuracies on the test split and latencies, chooses a candidate and writes the report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from edgekd.base.console import say
from edgekd.cache.stage import Artifact, Cache
from edgekd.check import lines, written
from edgekd.check.answers import answers_found
from edgekd.check.choose import Contender, budget_checks, choose
from edgekd.check.contenders import as_measured, measured_on, timed_here
from edgekd.check.doubts import doubts
from edgekd.check.package import thresholds_of
from edgekd.check.summary import summary
from edgekd.check.tasks import task_notes
from edgekd.data import Unseen
from edgekd.errors import DeviceError, ExportError
from edgekd.export.lint import Finding, lint
from edgekd.figures.candidate import Candidate, Check, Dropped, Latency, Score
from edgekd.figures.devices import not_yet, with_device
from edgekd.figures.figures import OnDevice, Report
from edgekd.figures.metric import Drop, Judged, Metric, drop_of
from edgekd.measure.protocol import PROTOCOL, Timing
from edgekd.recipe import Recipe
from edgekd.runtime.runners import machine, versions
from edgekd.steps.attempts import none_left
from edgekd.steps.candidates import Exported
from edgekd.steps.export import MODEL
from edgekd.steps.problem import Problem, Problems
from edgekd.steps.teach import Instruction
from edgekd.steps.trained import WEIGHTS
from edgekd.target import Target
from edgekd.tasks.multilabel import THRESHOLD, f1
from edgekd.tasks.protocol import Answers
from edgekd.tasks.scores import scored


@dataclass(frozen=True)
class Compared:
    """The candidates side by side: timed, linted, compared with the trained model and with the default floors.

    student: the float student's score; same: percent of answers that int8 shares with the trained model; measured: the
    device's figures for each candidate, if a device was asked; failed: name -> the reason why it could not be timed.
    """

    contenders: Sequence[Contender]
    teacher: Score | None
    teacher_latency: Latency | None
    student: Score
    same: float | None
    findings: Mapping[str, list[Finding]]
    measured: Mapping[str, OnDevice | DeviceError]
    failed: Mapping[str, str]


def evaluate(
    recipe: Recipe,
    target: Target,
    run: Cache,
    problems: Problems,
    instruction: Instruction,
    exported: Exported,
    device: str = "",
    timing: Timing = PROTOCOL,
) -> Report:
    """Measure the candidates, here or on the named device, and choose among them. Nothing of this is cached."""
    test, trained = problems.student.open_test(), exported.student.weights
    assert trained is not None  # build has trained it
    compared = compare(recipe, target, run, problems, instruction, exported, device, timing)
    chosen = choose(compared.contenders, recipe.budget, compared.teacher)
    shipped = next(candidate for candidate in chosen if candidate.shipped)
    dropped, scores = {**exported.dropped, **compared.failed}, exported.scores[shipped.name]
    found = answers_found(test, scores, instruction.scores, recipe.export)
    report = Report(
        recipe=recipe.name,
        target=target.name,
        target_title=target.title,
        runtime=target.runtime.name,
        input=recipe.data.input,
        task=recipe.task.kind,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - run.started, 1),
        machine=machine(),
        versions=versions(),
        classes=test.classes,
        teacher=compared.teacher,
        teacher_latency=compared.teacher_latency,
        teacher_size_mb=written.teacher_size_mb(recipe),
        student=compared.student,
        student_parameters=written.parameters(trained / WEIGHTS),
        candidates=chosen,
        dropped=tuple(Dropped(name=name, reason=reason) for name, reason in dropped.items()),
        checks=tuple(checks(run, recipe, target, problems, instruction, exported, compared, shipped)),
        by_class=found.by_class,
        confusion=found.confusion,
        mistakes=found.mistakes,
        fits=found.fits,
        curves=lines.curves(trained),
        temperature_curve=written.temperatures(instruction.temperature),
        quantization_curves=lines.curves(exported.quantized.taken.quantized if exported.quantized else None),
        quantization_path=written.path(exported.quantized),
        sensitivity=written.sensitivity(exported.quantized),
        warnings=(
            *lines.warnings(
                recipe, test, problems.skipped, compared.teacher, shipped, answers_of(scores, test), exported.quantized
            ),
            *lines.slow(compared.findings[shipped.name]),
            *doubts(test, shipped.name, np.load(scores / "test.npy")),
        ),
        summary=tuple(summary(recipe, instruction.teaching.settings, lines.curves(trained))),
        stages=tuple(artifact.lineage() for artifact in run.artifacts),
    )
    there = compared.measured.get(shipped.name)
    return with_device(report, there, recipe.budget.p90_latency_ms) if isinstance(there, OnDevice) else report


def compare(
    recipe: Recipe,
    target: Target,
    run: Cache,
    problems: Problems,
    instruction: Instruction,
    exported: Exported,
    device: str,
    timing: Timing,
) -> Compared:
    """Time the candidates and find the faults of each. Raises ExportError if no candidate is left."""
    test, candidates, scores = problems.student.open_test(), dict(exported.candidates), exported.scores
    read = (*candidates.values(), *scores.values(), exported.as_trained, exported.in_torch)
    for artifact in filter(None, read):
        run.intact(artifact)
    answers = {name: answers_of(score, test) for name, score in scores.items()}
    own = {name: score_of(score, test) for name, score in scores.items()}
    student = score_of(in_float(exported), test)
    teacher = score_of(instruction.scores, test) if instruction.scores is not None else None
    timed = timed_here(recipe, target, problems, candidates, own, next(iter(instruction.teachers), None), timing)
    for name, reason in timed.failed.items():
        say(f"  {name} was dropped: {reason}")
        candidates.pop(name, None)
    if not candidates:
        raise ExportError(none_left({**exported.dropped, **timed.failed}))
    findings = {name: lint(artifact / MODEL, target) for name, artifact in candidates.items()}
    faults = {name: lines.refusal(linted) for name, linted in findings.items()}
    same = None
    if "int8" in candidates and exported.as_trained is not None:
        same = lines.same_as_trained(test.task, exported.as_trained, scores["int8"])
        if same < lines.AGREEMENT:
            faults["int8"] = (
                f"only {same:.2f} % of its answers are those of the model that was trained; at least {lines.AGREEMENT} % are asked"
            )
    references = {"fp32": judged_of(in_float(exported), test)}
    if instruction.scores is not None:
        references["the teacher"] = judged_of(instruction.scores, test)
    judged = {name: test.task.judge(answer, test.labels) for name, answer in answers.items()}
    contenders = [
        replace(
            contender, in_float=student, fault=faults[contender.name], judged=judged[contender.name],
            metric=test.task.metric, drops=drops_of(test.task.metric, judged[contender.name], references),
        )
        for contender in timed.contenders
    ]  # fmt: skip
    measured = measured_on(device, recipe, target, test, candidates) if device else {}
    contenders = [
        as_measured(contender, measured[contender.name]) if measured else contender for contender in contenders
    ]
    contenders = lines.with_floors(contenders, recipe.budget, test, answers, instruction.scores)
    return Compared(contenders, teacher, timed.teacher, student, same, findings, measured, timed.failed)


def checks(
    run: Cache,
    recipe: Recipe,
    target: Target,
    problems: Problems,
    instruction: Instruction,
    exported: Exported,
    compared: Compared,
    shipped: Candidate,
) -> list[Check]:
    """The report's checks, budgets first."""
    scores, test = exported.scores[shipped.name], problems.student.open_test()
    int8 = exported.candidates.get("int8")
    agreement = (
        lines.agreement(test.task, compared.same, int8, exported.as_trained, exported.scores["int8"], shipped.name)
        if compared.same is not None and int8 is not None and exported.as_trained is not None
        else ()
    )
    return [
        *budget_checks(compared.contenders, shipped.name, recipe.budget, compared.teacher),
        *agreement,
        *lines.under_teacher(recipe, shipped, compared.teacher),
        lines.linted(compared.findings[shipped.name], target),
        not_yet(target.title),
        *lines.kept_in_fp32({name: exported.candidates[name] for name in compared.findings}),
        *lines.chain_found(recipe, instruction.chain, test.task.metric.unit),
        *lines.reused(exported.student.weights),
        *lines.old_and_new(instruction.scores, scores, test),
        *labels_found(run, recipe, problems.student, exported.candidates[shipped.name], scores),
        *task_notes(problems.tasks, instruction.task_scores, scores),
    ]


def labels_found(run: Cache, recipe: Recipe, problem: Problem, model: Artifact, scores: Artifact) -> Iterator[Check]:
    """A note with F1 at the thresholds that ship, for a task of several labels."""
    thresholds = thresholds_of(run, recipe, problem, model)
    if not thresholds:
        return
    test = problem.open_test()
    probabilities = answers_of(scores, test)
    at = {f"{THRESHOLD:g} for each": THRESHOLD, "thresholds of the hold-out split": np.array(thresholds)}
    told = [
        f"{where}: micro {micro:.2f} %, macro {macro:.2f} %"
        for where, of in at.items()
        for micro, macro in [f1(probabilities > of, test.labels)]
    ]
    yield Check(name="F1", verdict="note", found="; ".join(told))


def score_of(scores: Artifact, test: Unseen) -> Score:
    """The score on the test split with its interval, from a stage's logits `[samples, classes]`."""
    runtime = str(json.loads((scores / "runtime.json").read_text()))
    return scored(test.task, answers_of(scores, test), test.labels, runtime)


def answers_of(scores: Artifact, test: Unseen) -> Answers:
    """The answers to the test split, from a stage's logits."""
    return test.task.answered(np.load(scores / "test.npy"))


def in_float(exported: Exported) -> Artifact:
    """The float student's logits: those of the fp32 export, or of the module if that export was dropped."""
    found = exported.scores.get("fp32") or exported.in_torch
    if found is None:
        raise ExportError(none_left(dict(exported.dropped)))
    return found


def judged_of(scores: Artifact, test: Unseen) -> Judged:
    """Each test sample's part of the metric, from a stage's logits."""
    return test.task.judge(answers_of(scores, test), test.labels)


def drops_of(metric: Metric, own: Judged, references: Mapping[str, Judged]) -> dict[str, Drop]:
    """The drop from each reference's answers to these, on the same samples."""
    return {name: drop_of(metric, reference, own) for name, reference in references.items()}
