"""The flow: from a recipe and a target to a bundle. Start here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edgekd import team
from edgekd.data import decode
from edgekd.distill.student import distill, train_teacher
from edgekd.distill.teacher import record_teacher, score_teacher
from edgekd.distill.train import uses_bf16
from edgekd.evaluate import Made, evaluate, package
from edgekd.export.candidates import export_fp16, export_fp32, export_int8, score
from edgekd.preflight import check_models, check_output, check_teacher
from edgekd.quantize.student import quantize
from edgekd.recipe import Recipe
from edgekd.report.model import Report
from edgekd.stage import Cache
from edgekd.target import Target

Ask = Callable[[str], bool]


def build(recipe: Recipe, target: Target, run: Cache, folder: Path, ask: Ask) -> Report:
    """Run every stage that the cache does not hold, choose the candidate that ships and write the bundle to `folder`.

    `ask` is put the question whether to go on with something doubtful. Raises EdgekdError for what cannot work; a missed
    budget is told by the report.
    """
    started = time.time()
    data, teacher, student = recipe.data, recipe.teacher, recipe.student
    # Which of the two "auto" is on this machine shapes the weights, so it is part of their key.
    settings = recipe.distill.model_copy(
        update={"precision": "bf16" if uses_bf16(recipe.distill.precision) else "fp32"}
    )
    opset, precisions = recipe.export.opset or target.runtime.default_opset, target.runtime.precisions
    learns_from_teacher = any(loss.weight for loss in settings.losses)

    check_output(folder)
    samples = run(decode, data.source)
    check_models(recipe, samples)
    trained = run(train_teacher, samples, teacher, data) if teacher.train_epochs else None
    check_teacher(recipe, samples, trained, ask)
    outputs = run(record_teacher, samples, teacher, trained, data, settings.views) if learns_from_teacher else None
    teacher_scores = run(score_teacher, samples, teacher, trained, data)
    distilled = run(distill, samples, outputs, teacher, trained, student, data, settings)

    candidates = {"fp32": run(export_fp32, samples, student, distilled, data, recipe.export, opset)}
    if "fp16" in precisions:
        candidates["fp16"] = run(export_fp16, samples, student, distilled, candidates["fp32"], data, recipe.export)
    quantized = None
    if recipe.quantize.mode != "none":
        scheme = target.quantization
        quantized = run(
            quantize, samples, outputs, teacher, trained, student, distilled, data, settings, recipe.quantize, scheme
        )
        candidates["int8"] = run(
            export_int8, samples, student, distilled, quantized, data, recipe.quantize, scheme, recipe.export, opset
        )
    scores = {name: run(score, samples, model, data, recipe.export) for name, model in candidates.items()}

    if team.RANK > 0:  # of the processes of `accelerate launch` the first checks and packages
        list(team.invitations())
        return Report.model_validate_json((folder / "report.json").read_bytes())
    made = Made(samples, trained, teacher_scores, distilled, quantized, candidates, scores)
    report = evaluate(recipe, target, run, made, started)
    package(folder, recipe, target, run, made, report)
    if team.SIZE > 1:
        team.dismiss()
    return report
