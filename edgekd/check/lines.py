"""The report's checks and warnings besides the budgets: agreement of int8 with training, lint, notes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekd.cache.stage import Artifact
from edgekd.check.choose import Contender
from edgekd.check.limits import floors
from edgekd.data import Unseen
from edgekd.export.lint import Finding, counted, grouped, listed, runtime_title
from edgekd.figures.candidate import Candidate, Check, Score
from edgekd.figures.words import beside, figure
from edgekd.figures.words import valued as in_words
from edgekd.recipe import Budget, Recipe
from edgekd.steps.export import FROM_MODULE, SAME, TRAINED, kept_fp32
from edgekd.steps.ladder import Quantized
from edgekd.steps.trained import REUSED
from edgekd.target import Target
from edgekd.tasks.protocol import Answers, Task
from edgekd.tasks.scores import value_of

AGREEMENT = 99.5  # percent of the test split on which the fake-quantized model and onnxruntime name the same class


def same_as_trained(task: Task, as_trained: Artifact, scores: Artifact) -> float:
    """The percent of the test split on which fake-quantized and exported model name the same class.

    If the rest of the graph is fp16, the graph before that step is compared. A processor rounds each value between two
    layers to half precision; an engine of TensorRT fuses a layer with its rounding to int8.
    """
    deployed = as_trained / SAME if (as_trained / SAME).exists() else scores / "test.npy"
    return _same(task, as_trained / TRAINED, deployed)


def _same(task: Task, one: Path, other: Path) -> float:
    """The percent of answers that two files of stored outputs share."""
    return 100 * float(task.same(task.answered(np.load(one)), task.answered(np.load(other))).mean())


def with_floors(
    contenders: Sequence[Contender],
    budget: Budget,
    test: Unseen,
    answers: Mapping[str, Answers],
    teacher_scores: Artifact | None,
) -> list[Contender]:
    """The contenders with their default floors. answers: each candidate's answers on the test split.

    No class may be lost against the float student, nor against a teacher that knows the same classes.
    """
    task, references = test.task, {}
    if teacher_scores is not None and (stored := np.load(teacher_scores / "test.npy")).shape[1] == task.shape[0]:
        references["the teacher"] = task.answered(stored)
    if "fp32" in answers:
        references["fp32"] = answers["fp32"]
    found = []
    for contender in contenders:
        others = {name: other for name, other in references.items() if name != contender.name}
        kept = tuple(floors(task, answers[contender.name], test.labels, budget, others))
        found.append(replace(contender, floors=kept))
    return found


def kept_in_fp32(candidates: Mapping[str, Artifact]) -> Iterator[Check]:
    """A note for the operators that stay fp32 in each half-precision export, with reasons."""
    for name, artifact in candidates.items():
        kept = kept_fp32(artifact)
        if kept:
            named = "; ".join(f"{found.node}: {found.why}" for found in kept[:3]) + ("; ..." if len(kept) > 3 else "")
            yield Check(name=f"{name} keeps operators in fp32", verdict="note", found=f"{len(kept)}: {named}")


def agreement(
    task: Task, same: float, int8: Artifact, as_trained: Artifact, scores: Artifact, shipped: str
) -> Iterator[Check]:
    """The check that int8 computes the trained model's answers.

    With fp16 between the layers a further note gives the agreement on a processor.
    """
    n = len(np.load(as_trained / TRAINED, mmap_mode="r"))
    graph = json.loads((int8 / FROM_MODULE).read_text())
    yield Check(
        name="int8 computes what was trained",
        verdict="pass" if same >= AGREEMENT else "missed" if shipped == "int8" else "note",
        found=f"same answers as the fake-quantized model on {same:.2f} % of {n} test samples; unquantized, that "
        f"equals the student within {graph['rms']:.1e} (rms) on {graph['samples']} hold-out samples",
        limit=f"at least {AGREEMENT} %",
    )
    if (as_trained / SAME).exists():
        found = (
            f"same answers as the fake-quantized model on {_same(task, as_trained / TRAINED, scores / 'test.npy'):.2f} %: a processor rounds to half "
            "precision between two layers; an engine fuses them"
        )
        yield Check(name="int8 with fp16 between its layers", verdict="note", found=found)


def under_teacher(recipe: Recipe, shipped: Candidate, teacher: Score | None) -> Iterator[Check]:
    """A note with the student's distance to its teacher, if no budget limits that."""
    if teacher is not None and recipe.budget.max_drop_from_teacher is None:
        score = shipped.score
        drop = score.sign * (teacher.value - score.value)
        points = beside(drop, score.unit) if float(figure(drop, score.unit)) else "no difference"
        found = f"{in_words(score.value, score.unit)} against {in_words(teacher.value, teacher.unit)}, {points}"
        yield Check(name="beside the teacher", verdict="note", found=f"{found}; no limit is set")


def refusal(findings: Sequence[Finding]) -> str:
    """The reason why the target's runtime refuses a candidate; empty if it does not."""
    refused = [finding for finding in findings if finding.severity == "error"]
    return f"{refused[0].node}: {refused[0].why}" if refused else ""


def linted(findings: Sequence[Finding], target: Target) -> Check:
    refused = any(finding.severity == "error" for finding in findings)
    unlisted = any(finding.rule == "unlisted_operators" for finding in findings)
    return Check(
        name=f"lint for {runtime_title(target)}", verdict="missed" if refused else "not measured" if unlisted else "pass",
        found=counted(findings), limit="no errors",
    )  # fmt: skip


def slow(findings: Sequence[Finding]) -> Iterator[str]:
    """The warnings of lint on the model that ships."""
    for finding, nodes in grouped([finding for finding in findings if finding.severity != "note"]):
        yield f"lint, {listed(nodes)}: {finding.why}; {finding.remedy}"


def chain_found(recipe: Recipe, chain: Sequence[Artifact], unit: str) -> Iterator[Check]:
    """A note with the score of each assistant and generation between the teacher and the student."""
    assistants = [f"assistant {model.model}" for model in recipe.student.assistants]
    names = [*assistants, *(f"generation {n + 1}" for n in range(recipe.distill.generations))]
    for name, trained in zip(names, chain, strict=True):
        found = f"{in_words(curves(trained)[-1]['holdout'], unit)} on the hold-out split"
        yield Check(name=name, verdict="note", found=found)


def reused(distilled: Artifact | None) -> Iterator[Check]:
    """A note on the parameters that simkd adds to the student that ships."""
    if distilled is not None and (distilled / REUSED).exists():
        added = json.loads((distilled / REUSED).read_text())["added_parameters"]
        found = f"projector and the teacher's classifier: {added:,} parameters that the student alone would not have"
        yield Check(name="simkd adds to what ships", verdict="note", found=found)


def old_and_new(teacher_scores: Artifact | None, scores: Artifact, test: Unseen) -> Iterator[Check]:
    """The student's scores on old and new classes, if the teacher knows the first classes only."""
    if teacher_scores is None or test.task.strata(test.labels) is None:
        return
    teacher, student = np.load(teacher_scores / "test.npy"), np.load(scores / "test.npy")
    known = teacher.shape[1]
    if known == student.shape[1]:
        return
    labels = test.labels
    old, new = labels < known, labels >= known
    task = test.task
    among_old, by_teacher = (
        value_of(task, student[old][:, :known], labels[old]),
        value_of(task, teacher[old], labels[old]),
    )
    among_new = value_of(task, student[new][:, known:], labels[new] - known)
    for name, rows, among in (
        ("old", old, f"{among_old:.2f} % (the teacher {by_teacher:.2f} %)"),
        ("new", new, f"{among_new:.2f} %"),
    ):
        found = f"{value_of(task, student[rows], labels[rows]):.2f} % of {int(rows.sum())} test samples among all classes, among the {name} "
        yield Check(name=f"{name} classes", verdict="note", found=f"{found}ones alone {among}")


def curves(trained: Artifact | None) -> tuple[dict[str, float], ...]:
    """The figures that the training loop logged, a dict per epoch; empty if nothing was trained."""
    if trained is None or not (trained / "metrics.jsonl").exists():
        return ()
    return tuple(json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines())


FEW = 5  # samples of a class: of fewer, none right says little


def never_right(test: Unseen, name: str, answers: Answers) -> Iterator[str]:
    """A warning that names the classes whose test samples all got another answer. answers: of the shipped model."""
    classes = test.task.strata(test.labels)
    if classes is None:
        return
    counts = np.bincount(classes, minlength=len(test.classes))
    right = np.bincount(classes[answers == test.labels], minlength=len(test.classes))
    if lost := [f"{test.classes[i]} ({counts[i]} samples)" for i in np.flatnonzero((counts >= FEW) & (right == 0))]:
        yield f"{name} never gives the right answer for {listed(lost)}"


def warnings(
    recipe: Recipe,
    test: Unseen,
    skipped: Sequence[str],
    teacher: Score | None,
    shipped: Candidate,
    answers: Answers,
    quantized: Quantized | None,
) -> Iterator[str]:
    """Warnings on facts that no budget forbids but that a careful reader should know."""
    if quantized is not None:
        yield from map(str, quantized.float_operators)
        if quantized.taken.holds is False:
            yield (
                f"no way to quantize keeps budget.max_drop_from_fp32 on the hold-out split; int8 is {quantized.taken.name}, the "
                f"most accurate of {len(quantized.tried)}"
            )
    if skipped:
        yield f"{len(skipped)} {test.input.noun} do not decode and were left out, the first: {skipped[0]}"
    for given in recipe.teachers:
        if given.model.startswith(("onnx:", "exported:")) and (given.weights or given.args):
            yield f"teacher.weights and args were not read: {given.model.partition(':')[0]}: holds the whole model"
    if recipe.data.is_synthetic:
        yield f"the training images are synthetic ({recipe.data.train}): made from the teacher, none is real"
    if recipe.teachers and not any(loss.weight for loss in recipe.distill.losses):
        yield "no loss reads the teacher (distill.losses): the student learned from labels alone"
    yield from never_right(test, shipped.name, answers)
    task = test.task
    constantly, constant = task.constant(test.labels)
    chance = task.metric.value(task.judge(constant, test.labels))
    for name, found in (("the teacher", teacher), (shipped.name, shipped.score)):
        if found is not None and found.sign * ((found.low if found.sign > 0 else found.high) - chance) <= 0:
            yield (
                f"{name} has {in_words(found.value, found.unit)} {found.metric}, no better than {constantly} "
                f"({in_words(chance, found.unit)})"
            )
