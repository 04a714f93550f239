"""compared: bundles side by side, their scores on the same test samples, and what differs in their recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.base.console import say
from edgekd.base.contents import hash_file
from edgekd.base.toml_file import shown
from edgekd.bundle.read import SHIPPED, read_manifest, read_report
from edgekd.errors import BundleError, EdgekdError
from edgekd.figures.comparison import ComparedBundle, Comparison, MeasuredThere, RecipeDifference, ScoreDifference
from edgekd.figures.devices import decisive
from edgekd.figures.figures import Report
from edgekd.figures.metric import Judged, Metric, drop_of
from edgekd.measure.samples import recipe_of, samples_for_accuracy
from edgekd.runtime.runners import OnnxRunner
from edgekd.tasks.protocol import Targets

BATCH = 64


@dataclass(frozen=True)
class Judgement:
    """Each test sample's part of the metric, with the labels that it was judged by.

    samples: names of the test samples, of which one that two bundles share says that theirs are the same: where the recipe
    has them from, and the hash of what the graph takes. Equal labels alone do not: other pictures may have them too.
    """

    metric: Metric
    judged: Judged
    labels: Targets
    samples: frozenset[str]


def compared(folders: Sequence[Path]) -> Comparison:
    """The bundles' figures, and each one's difference from the first.

    The shipped models run here on the test split of their recipes, so that the interval of a difference is a paired one. If
    the data is not here, or the samples are others, the difference has no interval and says why. Raises BundleError for a
    folder that is no bundle, and for fewer than two.
    """
    if len(folders) < 2:
        raise BundleError(f"{len(folders)} bundle given; two or more can be compared: edgekd compare BUNDLE BUNDLE")
    reports = [read_report(folder) for folder in folders]
    judgements = [judgement(folder) for folder in folders]
    return Comparison(
        bundles=tuple(_bundle(folder, report) for folder, report in zip(folders, reports, strict=True)),
        differences=tuple(
            difference(str(folder), reports[0], report, judgements[0], own)
            for folder, report, own in zip(folders[1:], reports[1:], judgements[1:], strict=True)
        ),
        recipes=tuple(recipe_differences([_settings(folder) for folder in folders])),
        notes=tuple(_notes(reports)),
    )


def judgement(folder: Path) -> Judgement | str:
    """The shipped model's answers on its recipe's test split, computed here; or the reason why they cannot be had."""
    try:
        with samples_for_accuracy(folder) as samples, np.load(samples.file, allow_pickle=False) as stored:
            say(f"  {folder}: {len(samples.labels)} test samples")
            inputs, runner, task = (
                {name: stored[name] for name in stored.files},
                OnnxRunner(folder / SHIPPED),
                samples.task,
            )
            starts = range(0, len(samples.labels), BATCH)
            parts = [runner.run({name: rows[at : at + BATCH] for name, rows in inputs.items()}) for at in starts]
            answers = task.answered(task.stored(np.concatenate(parts)))
            named = frozenset({_source(folder), hash_file(samples.file)})
            return Judgement(task.metric, task.judge(answers, samples.labels), np.asarray(samples.labels), named)
    except EdgekdError as error:
        return " ".join(str(error).split())


def _source(folder: Path) -> str:
    """Where the recipe has its test samples from: their own place, or the share of train that is drawn for them."""
    data = recipe_of(folder).data
    return data.test if isinstance(data.test, str) else f"{data.train} {data.test} {data.test_seed}"


def difference(
    folder: str, first: Report, other: Report, reference: Judgement | str, own: Judgement | str
) -> ScoreDifference:
    """How much worse `other` is than `first`, paired if both were judged on the same samples."""
    if isinstance(reference, Judgement) and isinstance(own, Judgement):
        same = reference.samples & own.samples and np.array_equal(reference.labels, own.labels)
        if reference.metric.name == own.metric.name and same:
            drop = drop_of(own.metric, reference.judged, own.judged)
            return ScoreDifference(folder=folder, value=drop.value, low=drop.low, high=drop.high)
        why = "the test samples or the metrics are others"
    else:
        why = own if isinstance(own, str) else str(reference)
    one, two = first.chosen.score, other.chosen.score
    if one.metric != two.metric:
        why = f"{two.metric} and {one.metric} are other metrics"
    value = one.sign * (one.value - two.value)
    return ScoreDifference(folder=folder, value=value, low=None, high=None, why_not_paired=why)


def recipe_differences(settings: Sequence[Mapping[str, Any]]) -> Iterator[RecipeDifference]:
    """The keys whose values are not the same everywhere, in their order."""
    flat = [dict(_flat(each)) for each in settings]
    for key in dict.fromkeys(key for each in flat for key in each):
        values = tuple(each.get(key, "") for each in flat)
        if len(set(values)) > 1:
            yield RecipeDifference(key=key, values=values)


def _settings(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return {**manifest.recipe.written(), "target": manifest.target}


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key}", shown(value)


def _bundle(folder: Path, report: Report) -> ComparedBundle:
    chosen = report.chosen
    there = tuple(
        MeasuredThere(device=device.device, power_mode=device.power_mode, latency=latency)
        for device in report.devices
        if (latency := decisive(device)) is not None
    )
    return ComparedBundle(
        folder=str(folder), recipe=report.recipe, target=report.target, headline=report.headline, model=chosen.name,
        score=chosen.score, size_mb=chosen.size_mb, latency=chosen.latency, devices=there,
    )  # fmt: skip


def _notes(reports: Sequence[Report]) -> Iterator[str]:
    machines = {report.chosen.latency.machine for report in reports if report.chosen.latency is not None}
    if len(machines) > 1:
        yield f"the milliseconds are of {len(machines)} machines, so they cannot be compared: {'; '.join(sorted(machines))}"
    if len({report.target for report in reports}) > 1:
        yield "the targets are others; milliseconds of this machine say nothing about either device"
