"""The flow of a build, from a recipe and a target to a bundle. Start reading here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekd.base import processes
from edgekd.cache.stage import Cache
from edgekd.check.evaluate import evaluate
from edgekd.check.package import package
from edgekd.check.preflight import check_output, check_teachers, preflight
from edgekd.figures.figures import Report
from edgekd.measure.protocol import PROTOCOL, Timing
from edgekd.recipe import Recipe
from edgekd.steps.candidates import export_candidates
from edgekd.steps.distill import distill
from edgekd.steps.problem import problems_of
from edgekd.steps.synthesize import synthesized
from edgekd.steps.teach import teach, teachers_of
from edgekd.steps.trained import Trained
from edgekd.target import Target

Confirm = Callable[[str], bool]


def build(
    recipe: Recipe,
    target: Target,
    run: Cache,
    folder: Path,
    confirm: Confirm,
    device: str = "",
    timing: Timing = PROTOCOL,
) -> Report:
    """Run every stage that is not cached, choose the candidate that ships and write the bundle to `folder`.

    confirm: asked whether to go on in a doubtful case; device: the name of the device that measures the candidates, by
    default this machine; timing: how long they are timed here, which enters no stage's key. Raises EdgekdError if the build
    cannot work; the report tells missed budgets.
    """
    as_written, recipe = recipe, recipe.canonical()
    check_output(folder)
    problems = problems_of(run, recipe)
    plan = preflight(run, recipe, target, problems)
    problems = synthesized(run, recipe, problems, plan.student)
    teachers = teachers_of(run, recipe, problems.teacher)
    check_teachers(recipe, problems, teachers, confirm)
    instruction = teach(run, recipe, problems, teachers, plan.student, plan.learning)
    student = Trained(plan.student, run(distill, instruction.teaching, plan.student, instruction.begins_with))
    exported = export_candidates(run, recipe, target, problems.student, student, instruction.teaching, plan.form)
    if processes.RANK > 0:  # only the first process of `accelerate launch` checks and packages
        list(processes.invitations())
        return Report.model_validate_json((folder / "report.json").read_bytes())
    report = evaluate(as_written, target, run, problems, instruction, exported, device, timing)
    report = package(folder, as_written, target, run, problems, exported, report)
    if processes.SIZE > 1:
        processes.dismiss()
    return report
