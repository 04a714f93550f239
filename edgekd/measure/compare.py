"""compare_on: checks a bundle's files, and compares a device's outputs and accuracy with the host's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekd.bundle.golden import FIRST, Golden
from edgekd.bundle.read import SHIPPED, Row, read_manifest
from edgekd.bundle.write import verify_bundle
from edgekd.figures.candidate import Score
from edgekd.figures.words import figure, valued
from edgekd.measure.devices import Device
from edgekd.measure.numerics import Numerics, compare
from edgekd.measure.samples import samples_for_accuracy
from edgekd.tasks.scores import scored

NODES_SHOWN = 5


def compare_on(device: Device, folder: Path, *, samples: int = 0) -> list[Row]:
    """The rows (subject, ok, detail) of a comparison.

    First come the files here, then the stored outputs on the device and, with `samples`, the accuracy. samples: how many of
    the recipe's test split are used, each class in its share; the data must be readable here. Stored outputs are right
    within the bundle's tolerance. The detail says whether they are bit-equal, and which intermediate tensors differ first.
    Raises BundleError for a folder that is not a bundle, DeviceError for a device that cannot run it.
    """
    rows = verify_bundle(folder)
    if not all(ok for _, ok, _ in rows):
        return rows
    golden = Golden.read(folder, read_manifest(folder))
    numerics = compare(device, folder / SHIPPED, golden.inputs)
    rows.append(_stored_outputs(numerics, golden))
    rows += _nodes(numerics)
    if samples:
        rows.append(_accuracy(device, folder, samples))
    return rows


def accuracy_on(device: Device, folder: Path, samples: int) -> tuple[Score, Score, float]:
    """The score of the shipped model on the device and here, and the share of equal answers.

    `samples` of the test split are used.
    """
    with samples_for_accuracy(folder, samples) as given, np.load(given.file, allow_pickle=False) as stored:
        numerics = compare(device, folder / SHIPPED, {name: stored[name] for name in stored.files}, nodes=False)
    task = given.task
    theirs, ours = (task.answered(task.stored(each)) for each in (numerics.on_device, numerics.expected))
    there = scored(task, theirs, given.labels, f"{numerics.runtime}, {device.name}", device.origin)
    here = scored(task, ours, given.labels, numerics.host_runtime)
    return there, here, float(task.same(ours, theirs).mean())


def _stored_outputs(numerics: Numerics, golden: Golden) -> Row:
    ok, detail = golden.compare({FIRST: numerics.on_device, **numerics.further})
    detail += f" over {numerics.n} inputs, {numerics.runtime}, {numerics.machine}"
    same = f"the same class on {numerics.same_top1:.2%}"
    return f"stored outputs on {numerics.device}", ok, f"{detail}; {_equality(numerics)}, {same}"


def _equality(numerics: Numerics) -> str:
    if numerics.outputs.bit_equal:
        return f"bit-equal to {numerics.host_runtime} here"
    return f"{numerics.outputs.elements} of {numerics.outputs.of} values differ from {numerics.host_runtime} here"


def _nodes(numerics: Numerics) -> list[Row]:
    """Rows for the first tensors beyond the bound. They only explain a difference, so none of them fails."""
    caveat = "" if numerics.tapped_alike else " (seen from outside the graph computes otherwise: fewer nodes are fused)"
    if not numerics.nodes:
        return [
            (
                f"{numerics.nodes_compared} tensors inside the graph",
                True,
                f"within {numerics.bound:g} of the host's{caveat}",
            )
        ]
    title = f"{len(numerics.nodes)} of {numerics.nodes_compared} tensors inside the graph"
    rows = [(title, True, f"differ by more than {numerics.bound:g} of their largest value, the first of them:{caveat}")]
    for node in numerics.nodes[:NODES_SHOWN]:
        detail = (
            f"{node.operator}: at most {node.difference:.3g} of {node.largest:.3g}, {node.elements} of {node.of} values"
        )
        rows.append((f"  {node.name}", True, detail))
    return rows


def _accuracy(device: Device, folder: Path, samples: int) -> Row:
    there, here, same = accuracy_on(device, folder, samples)
    low, high = (figure(end, there.unit) for end in (there.low, there.high))
    detail = (
        f"{valued(there.value, there.unit)} (95 % {low} to {high}) of {there.n} test samples, {there.origin}; here "
        f"{valued(here.value, here.unit)}; the same answer on {same:.2%}"
    )
    return f"{there.metric} on {device.name}", is_as_good(there, here), detail


def is_as_good(there: Score, here: Score) -> bool:
    """Whether the interval of the score there leaves room for the score here."""
    return there.high >= here.value if there.better == "higher" else there.low <= here.value
