"""The flow: from a recipe and a target to a bundle. Start here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgekd.base import processes
from edgekd.base.console import say
from edgekd.cache.stage import Artifact, Cache
from edgekd.check.evaluate import Made, evaluate, package, with_earlier_devices
from edgekd.check.preflight import check_models, check_output, check_teachers
from edgekd.check.tasks import decode_tasks, with_heads
from edgekd.data import decode
from edgekd.distill.objective import Objective
from edgekd.export.to_half import BF16_OPSET
from edgekd.figures.figures import Report
from edgekd.models.accelerator import uses_bf16
from edgekd.recipe import Data, Distill, Recipe, Recording, Teacher
from edgekd.steps.attempts import Attempts
from edgekd.steps.distill import (
    Lessons,
    TaskTaught,
    Taught,
    as_student,
    as_teacher,
    beginning,
    distill,
    train_teacher,
    without_teacher,
)
from edgekd.steps.export import MODEL, export_bf16, export_fp16, export_fp32, export_int8, score, score_student
from edgekd.steps.ladder import quantize_student
from edgekd.steps.quantize import Subject
from edgekd.steps.record import record_features, record_teacher, score_teacher
from edgekd.steps.rehearse import REFUSED, rehearse
from edgekd.steps.synthesize import synthesize
from edgekd.steps.temperature import FILE, choose_temperature, is_auto, with_temperature
from edgekd.target import Target

Ask = Callable[[str], bool]


def build(recipe: Recipe, target: Target, run: Cache, folder: Path, ask: Ask, device: str = "") -> Report:
    """Run every stage that the cache does not hold, choose the candidate that ships and write the bundle to `folder`.

    `ask` is put the question whether to go on with something doubtful; `device`: the name of the one that the candidates
    are measured on, else this machine. Raises EdgekdError for what cannot work; a missed
    budget is told by the report.
    """
    started = time.time()
    given, recipe = recipe, recipe.settled()
    data = recipe.data
    teacher = next(iter(recipe.teachers), None)
    opset, precisions = recipe.export.opset or target.runtime.default_opset, target.runtime.precisions

    check_output(folder)
    samples = run(decode, data.source)
    seen = (
        run(decode, recipe.teacher_data.source) if recipe.teacher_data.column != data.column else samples
    )  # by the teachers
    tasks = decode_tasks(recipe, run)
    student = with_heads(recipe, tasks)
    losses = check_models(recipe, target, student, samples, seen, tasks)
    scheme = target.int8 if recipe.quantize.mode != "none" else None
    keep_float, trains_on = recipe.quantize.keep_float, recipe.quantize.mode in ("qat", "auto")
    tested, into = (student.untrained, data.of_test), (recipe.export, opset, scheme, keep_float, trains_on, target)
    for line in json.loads((run(rehearse, samples, *tested, *into) / REFUSED).read_text()):
        say(f"  {target.title} would refuse this student as it is now: {line}")
    if data.is_synthetic:
        rival = student if data.train == "synthetic:dfq" else None
        samples = seen = run(synthesize, samples, teacher, rival, recipe.teacher_data)
    # Which of the two "auto" is on this machine shapes the weights, so it is part of their key.
    precision = "bf16" if uses_bf16(recipe.distill.precision) else "fp32"
    # What only decides how often the stages run is no part of theirs.
    settings = recipe.distill.model_copy(
        update={"precision": precision, "losses": losses, "generations": 0, "scheme": "offline"}
    )
    trained = run(train_teacher, seen, teacher, recipe.teacher_data) if teacher and teacher.train_epochs else None
    if not data.is_synthetic:  # what it made itself cannot tell
        check_teachers(recipe, seen, trained, tasks, ask)
    # The weights that the student begins with are part of its key only where it does.
    first = beginning(student, teacher, trained)
    taught_by = record(run, seen, recipe.teachers, trained, recipe.teacher_data, settings)
    taught_by = replace(taught_by, tasks=record_tasks(run, recipe, tasks, settings))
    teacher_scores = run(score_teacher, seen, teacher, trained, recipe.teacher_data.of_test) if teacher else None
    task_scores = {t.name: run(score_teacher, t.samples, t.teacher, None, t.data.of_test) for t in taught_by.tasks}
    tuned = run(choose_temperature, samples, taught_by, student, first, data, settings) if is_auto(losses) else None
    if tuned is not None:
        best = json.loads((tuned / FILE).read_text())["best"]
        settings = settings.model_copy(update={"losses": with_temperature(losses, best)})
    chain = []  # teacher (or labels alone) -> assistants -> student -> the student again
    learns = settings if teacher or not recipe.distill.generations else without_teacher(settings)
    for model in (*map(as_student, recipe.student.assistants), *[student] * recipe.distill.generations):
        chain.append(run(distill, samples, taught_by, model, first, data, learns))
        taught_by = record(run, samples, (as_teacher(model),), chain[-1], data, settings)
        # Each link is drawn anew (born-again networks, Furlanello et al. 2018).
        learns = settings = settings.model_copy(update={"seed": settings.seed + 1})
    distilled = run(distill, samples, taught_by, student, first, data, settings)

    tried = Attempts()
    tried.export("fp32", lambda: run(export_fp32, samples, student, distilled, data, recipe.export, opset))
    fp32 = tried.candidates.get("fp32")
    if "fp16" in precisions and fp32 is None:
        tried.drop("fp16", "it is made from fp32, which was dropped")
    elif "fp16" in precisions:
        tried.export("fp16", lambda: run(export_fp16, samples, student, distilled, fp32, data, recipe.export))
    if "bf16" in precisions:
        least = max(opset, BF16_OPSET)
        tried.export("bf16", lambda: run(export_bf16, samples, student, distilled, data, recipe.export, least))
    quantized = None
    if recipe.quantize.mode != "none":
        number, in_float = recipe.quantize.calibration_samples, recipe.quantize.keep_float
        subject = Subject(samples, student, distilled, data, target.int8, number, in_float)
        limit = recipe.budget.max_drop_from_fp32
        quantized = tried.of(
            "int8", lambda: quantize_student(run, subject, recipe.quantize, limit, taught_by, settings)
        )
    if quantized is not None:
        plan, weights = quantized.taken.plan, quantized.taken.quantized
        tried.export("int8", lambda: run(export_int8, subject, plan, weights, recipe.export, opset))
    scores = {
        name: found
        for name, model in list(tried.candidates.items())
        if (found := tried.of(name, partial(run, score, samples, model, data, recipe.export))) is not None
    }
    tried.left()
    # What the others are compared with is then the module itself.
    in_torch = run(score_student, samples, student, distilled, data) if "fp32" not in scores else None

    if processes.RANK > 0:  # of the processes of `accelerate launch` the first checks and packages
        list(processes.invitations())
        return Report.model_validate_json((folder / "report.json").read_bytes())
    made = Made(
        samples, seen, tasks, trained, teacher_scores, task_scores, tuned, tuple(chain), distilled, quantized, tried.candidates, scores,
        settings, tried.dropped, in_torch,
    )  # fmt: skip
    report = evaluate(given, target, run, made, started, device)
    ships = tried.candidates[report.chosen.name] / MODEL
    report = with_earlier_devices(report, folder, ships, recipe.budget.p90_latency_ms)
    report = told_of_files(report, run.user_code(), run.changed())
    package(folder, given, target, run, made, report)
    if processes.SIZE > 1:
        processes.dismiss()
    return report


def told_of_files(report: Report, code: list[str], changed: list[str]) -> Report:
    """The report, which lists the user's code that counted, and warns of files that were edited while the build ran.

    The bundle is of what these held before.
    """
    if code:
        report = report.model_copy(update={"summary": (*report.summary, ("your code", ", ".join(code)))})
    if not changed:
        return report
    warning = f"{', '.join(changed)} changed while this was built; the bundle is of what was there before: build again for the new"
    say(f"  {warning}")
    return report.model_copy(update={"warnings": (*report.warnings, warning)})


def record(
    run: Cache,
    samples: Artifact,
    teachers: tuple[Teacher, ...],
    trained: Artifact | None,
    data: Data,
    settings: Distill,
) -> Lessons:
    """What the losses read of these teachers, recorded; `trained` are the weights of the first."""
    objective = Objective(with_temperature(settings.losses, 1.0), settings.label_weight)
    if not objective.needs_teacher or not teachers:
        return Lessons(())
    bf16 = settings.precision == "bf16"
    recording = Recording(
        views=settings.views, format=settings.cache, top_k=settings.top_k if settings.cache == "topk" else 0, bf16=bf16
    )
    taught = tuple(
        Taught(teacher, own, run(record_teacher, samples, teacher, own, data, recording), samples, data)
        for teacher, own in zip(teachers, (trained, *[None] * (len(teachers) - 1)), strict=True)
    )
    layers = objective.pooled_features
    plainly = recording.model_copy(update={"format": "float16", "top_k": 0})  # logits alone have formats
    features = run(record_features, samples, teachers[0], trained, data, plainly, layers) if layers else None
    return Lessons(taught, features)


def record_tasks(
    run: Cache, recipe: Recipe, samples: Mapping[str, Artifact], settings: Distill
) -> tuple[TaskTaught, ...]:
    """The same for the student's further heads, each with a teacher of its own."""
    found = []
    for task in recipe.tasks:
        data, teacher = recipe.task_data(task), as_teacher(task.teacher)
        own = record(run, samples[task.name], (teacher,), None, data, settings).teachers
        found.append(TaskTaught(task.name, task.weight, samples[task.name], data, teacher, own[0] if own else None))
    return tuple(found)
