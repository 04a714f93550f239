"""export_candidates: exports the student in each precision of the target and scores it.

A candidate that fails is dropped, and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from edgekd.cache.stage import Artifact, Cache
from edgekd.export.to_half import BF16_OPSET
from edgekd.recipe import Recipe
from edgekd.steps.attempts import Attempts
from edgekd.steps.export import (
    Form,
    export_bf16,
    export_fp16,
    export_fp32,
    export_int8,
    score,
    score_quantized,
    score_student,
)
from edgekd.steps.ladder import Quantized, quantize_student
from edgekd.steps.problem import Problem
from edgekd.steps.quantize import Subject
from edgekd.steps.teaching import Teaching
from edgekd.steps.trained import Trained
from edgekd.target import Target


@dataclass(frozen=True)
class Exported:
    """The candidates that can ship, by name, and their scores on the test split.

    student: with its trained weights; dropped: name -> reason; quantized: the rungs and result of quantization;
    as_trained: logits of the fake-quantized model in torch; in_torch: the float student's scores if fp32 was dropped.
    """

    student: Trained
    candidates: Mapping[str, Artifact]
    scores: Mapping[str, Artifact]
    dropped: Mapping[str, str]
    quantized: Quantized | None
    as_trained: Artifact | None
    in_torch: Artifact | None


def export_candidates(
    run: Cache, recipe: Recipe, target: Target, problem: Problem, student: Trained, teaching: Teaching, form: Form
) -> Exported:
    """The candidates in every precision of the target. Raises ExportError with every reason if none is left."""
    tried, precisions, on = Attempts(), target.runtime.precisions, problem.training
    tried.export("fp32", lambda: run(export_fp32, student, on, form))
    fp32 = tried.candidates.get("fp32")
    if "fp16" in precisions and fp32 is None:
        tried.drop("fp16", "it is made from fp32, which was dropped")
    elif "fp16" in precisions:
        tried.export("fp16", lambda: run(export_fp16, student, on, fp32, form.export))
    if "bf16" in precisions:
        least = replace(form, opset=max(form.opset, BF16_OPSET))
        tried.export("bf16", lambda: run(export_bf16, student, on, least))
    quantized = None
    if recipe.quantize.mode != "none":
        subject = Subject(student, on, target.int8, recipe.quantize.calibration_samples, recipe.quantize.keep_float)
        limit, metric = recipe.budget.max_drop_from_fp32, problem.open().task.metric
        quantized = tried.of("int8", lambda: quantize_student(run, subject, recipe.quantize, limit, teaching, metric))
    if quantized is not None:
        taken = quantized.taken
        tried.export("int8", lambda: run(export_int8, subject, taken.plan, taken.quantized, form))
    evaluation = problem.evaluation
    scores = {
        name: found
        for name, model in list(tried.candidates.items())
        if (found := tried.of(name, partial(run, score, model, evaluation, form.export))) is not None
    }
    as_trained = None
    if quantized is not None and "int8" in scores:
        int8, made = tried.candidates["int8"], (subject, quantized.taken.plan, quantized.taken.quantized)
        as_trained = tried.of("int8", partial(run, score_quantized, *made, int8, evaluation, form.export))
    candidates = tried.left()
    scores = {name: found for name, found in scores.items() if name in candidates}
    # Without fp32 the others are compared with the module itself.
    in_torch = run(score_student, student, evaluation) if "fp32" not in scores else None
    return Exported(student, candidates, scores, tried.dropped, quantized, as_trained, in_torch)
