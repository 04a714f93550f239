"""package: writes the bundle: the model and its fp32 twin, labels, golden outputs, scripts and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.base.console import log_text, say
from edgekd.base.contents import hash_file
from edgekd.bundle.manifest import GraphColumn, Preprocess
from edgekd.bundle.read import LOG, MISTAKEN, OVERLAYS, SHIPPED, read_manifest
from edgekd.bundle.write import write_bundle
from edgekd.cache.fingerprint import fingerprint
from edgekd.cache.stage import Artifact, Cache
from edgekd.check.golden import golden_of
from edgekd.check.mistaken import pictures_of
from edgekd.check.overlays import overlays_of
from edgekd.data import Unseen
from edgekd.errors import EdgekdError
from edgekd.figures.devices import with_device
from edgekd.figures.figures import Report
from edgekd.inputs import Audio, Image, Input, Table
from edgekd.inputs.normalise import per_channel
from edgekd.inputs.protocol import at_most
from edgekd.inputs.table import CATEGORIES, NUMBERS
from edgekd.recipe import Recipe
from edgekd.steps.candidates import Exported
from edgekd.steps.export import MODEL
from edgekd.steps.problem import Problem, Problems
from edgekd.steps.thresholds import FILE, choose_thresholds
from edgekd.target import Target


def package(
    folder: Path, recipe: Recipe, target: Target, run: Cache, problems: Problems, exported: Exported, report: Report
) -> Report:
    """Write the bundle and return its report, with earlier device figures of the same model."""
    shipped = exported.candidates[report.chosen.name] / MODEL
    report = with_earlier_devices(report, folder, shipped, recipe.budget.p90_latency_ms)
    report = told_of_files(report, run.user_code(), run.changed())
    test = problems.student.open_test()
    among = {candidate.name for candidate in report.candidates}
    twin = {"model.fp32.onnx": exported.candidates["fp32"] / MODEL} if "fp32" in among else {}
    write_bundle(
        folder,
        report=report,
        recipe=recipe,
        target=target,
        fingerprint=fingerprint(recipe, target, run),
        models={"model.onnx": shipped, **twin},
        labels=test.task.names,
        tasks={name: task.open().classes for name, task in problems.tasks.items()},
        thresholds=thresholds_of(run, recipe, problems.student, exported.candidates[report.chosen.name]),
        golden=golden_of(shipped, report.chosen.name, recipe, test),
        preprocess=preprocess_of(test.input),
        reading=reading_of(test.input),
        at_most=at_most(test.input.fields),
        further={**pictures(test, exported, report), LOG: log_text().encode()},
    )
    return report


def pictures(test: Unseen, exported: Exported, report: Report) -> dict[str, bytes]:
    """The JPEGs of test pictures for report.html, by their names in the bundle; without those that do not apply."""
    answers = test.task.answered(np.load(exported.scores[report.chosen.name] / "test.npy", mmap_mode="r"))
    found = {OVERLAYS: overlays_of(test, answers), MISTAKEN: pictures_of(test, report.mistakes)}
    return {name: picture for name, picture in found.items() if picture}


def thresholds_of(run: Cache, recipe: Recipe, problem: Problem, model: Artifact) -> tuple[float, ...]:
    """The threshold of each label, chosen on the hold-out split; empty for other tasks."""
    if problem.open().task.holds != "labels":
        return ()
    return tuple(json.loads((run(choose_thresholds, model, problem.training, recipe.export) / FILE).read_text()))


def preprocess_of(input: Input) -> Preprocess | None:
    """Mean and std once for each channel, because run.py takes them so; None for what are no images."""
    if not isinstance(input, Image):
        return None
    channels = input.shape[2]
    return Preprocess(mean=per_channel(input.mean, channels), std=per_channel(input.std, channels))


def reading_of(input: Input) -> dict[str, dict[str, Any]]:
    """What run.py must know of sounds and tables to read them, by input of the graph; empty for others."""
    if isinstance(input, Audio):
        mono = {"mono": input.data.mono} if input.data.mono else {}
        return {input.fields[0].name: {"sample_rate": input.data.sample_rate, **mono}}
    if isinstance(input, Table):
        columns = {
            NUMBERS: [_column(each.column, part=each.part) for each in input.columns.numbers],
            CATEGORIES: [_column(each.column, words=each.words) for each in input.columns.categories],
        }
        return {name: {"columns": tuple(found), "missing": input.data.missing} for name, found in columns.items()}
    return {}


def _column(name: str, **more: Any) -> GraphColumn:
    """A column with the keys that say something: a column of numbers has its name alone."""
    return GraphColumn(name=name, **{key: value for key, value in more.items() if value != ""})


def with_earlier_devices(report: Report, folder: Path, model: Path, p90_budget_ms: float | None) -> Report:
    """The report with the device figures of the bundle in `folder`, if that bundle ships the same model."""
    try:
        earlier = Report.model_validate_json((folder / "report.json").read_bytes())
        same = read_manifest(folder).files[SHIPPED] == hash_file(model)
    except (OSError, ValueError, KeyError, EdgekdError):  # no bundle, or a bundle of another edgekd
        return report
    measured = {(device.device, device.power_mode) for device in report.devices}
    for device in earlier.devices if same else ():
        if (device.device, device.power_mode) not in measured:
            report = with_device(report, device, p90_budget_ms)
    return report


def told_of_files(report: Report, code: list[str], changed: list[str]) -> Report:
    """The report with a list of the user's code, and a warning about files that changed while the build ran.

    The bundle contains the earlier state of these files.
    """
    if code:
        report = report.model_copy(update={"summary": (*report.summary, ("your code", ", ".join(code)))})
    if not changed:
        return report
    warning = f"{', '.join(changed)} changed while this was built; the bundle is of what was there before: build again for the new"
    say(f"  {warning}")
    return report.model_copy(update={"warnings": (*report.warnings, warning)})
