"""What is refused of a teacher before anything is trained: its input, its outputs, its order of classes, knowing nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd.base.console import say
from edgekd.check.class_order import mistaken_order
from edgekd.data import Samples
from edgekd.data.draw import stratified
from edgekd.errors import ModelError
from edgekd.figures.intervals import wilson_interval
from edgekd.models import ExportedModel, OnnxModel, number_of_classes
from edgekd.models.adapt import adapt_input, adapt_output, kind_of
from edgekd.models.forward import logits_of, predict
from edgekd.recipe import Data, Network
from edgekd.steps.trained import Trained, new_model

PROBED = 500  # samples that a teacher is tried on, or
OF_A_CLASS = 10  # so many of each class, where that is more
SHOWN = 8  # pictures that tell what its outputs are
A_TENTH = 0.1  # of the way from chance to always right: what is surely below is no better than chance
TOLD = {
    "probabilities": "its rows lie between 0 and 1 and sum to 1",
    "log_probabilities": "the exponentials of its rows sum to 1",
}


def checked_teacher(teacher: Network, place: str, samples: Samples, data: Data) -> tuple[nn.Module, int]:
    """The teacher as all its readers see it (edgekd.models.adapt), and the number of classes that it knows.

    place: its table in the recipe, for what is told; data: as it sees it. Raises ModelError where it takes other images, or
    gives something else than the recipe says.
    """
    model = new_model(teacher, samples, 0)
    _check_input(model, teacher, place, samples.image_shape)
    adapt_input(model, teacher)
    remedy = "" if teacher.size else f"; where it was made for another size, write {place}.size = [height, width]"
    outputs = number_of_classes(model, samples.image_shape, f"{_called(place)} '{teacher.model}'", remedy)
    if teacher.classes is not None and len(teacher.classes) != outputs:
        raise ModelError(
            f"{place}.classes has {len(teacher.classes)} names, {_called(place)} '{teacher.model}' gives {outputs} outputs; "
            "name each of them, in their order"
        )
    _check_outputs(model, teacher, place, samples, data)
    adapt_output(model, teacher, samples.classes)
    return model, number_of_classes(model, samples.image_shape)


def _called(place: str) -> str:
    return "the teacher" if place == "teacher" else f"the teacher {place}"


def _check_input(model: nn.Module, teacher: Network, place: str, image_shape: tuple[int, int, int]) -> None:
    """Where a file says what it takes, that is held against the pictures."""
    if not isinstance(model, OnnxModel | ExportedModel):
        return
    height, width, channels = image_shape
    wanted = (None, channels, *(teacher.size or (height, width)))
    takes = model.takes
    given = f"the data gives [batch, {channels}, {height}, {width}]"
    shown = "[" + ", ".join("any" if side is None else str(side) for side in takes) + "]"
    called = f"{_called(place)} '{teacher.model}' takes images {shown}"
    if len(takes) != 4:
        raise ModelError(f"{called}, {given}; a teacher of images takes [batch, channels, height, width]")
    if takes[1] not in (None, channels):
        remedy = f"; write data.channels = {takes[1]}" if takes[1] in (1, 3) and channels in (1, 3) else ""
        raise ModelError(f"{called}, {given}{remedy}")
    if any(own not in (None, side) for own, side in zip(takes[2:], wanted[2:], strict=True)):
        own = [side if mine is None else mine for mine, side in zip(takes[2:], (height, width), strict=True)]
        given = f"{place}.size is [{wanted[2]}, {wanted[3]}]" if teacher.size else given
        raise ModelError(f"{called}, {given}; write {place}.size = {own}, and the pictures are resized for it")
    if takes[0] is not None and takes[0] < SHOWN:
        say(
            f"  {_called(place)} '{teacher.model}' is written for batches of {takes[0]}: it is run in such pieces, which takes longer"
        )


def _check_outputs(model: nn.Module, teacher: Network, place: str, samples: Samples, data: Data) -> None:
    """Raise ModelError for outputs of another kind than the recipe says, and for NaN."""
    if data.is_synthetic:  # there is no training picture yet
        images = np.random.default_rng(0).integers(0, 256, (SHOWN, *samples.image_shape), dtype=np.uint8)
    else:
        images = samples.train.get(samples.train_ids[:SHOWN])
    rows = logits_of(model, images, data)
    called = f"{_called(place)} '{teacher.model}'"
    if torch.isnan(rows).any():
        raise ModelError(
            f"{called} gives NaN on training pictures; mend its weights, or its normalisation ({place}.mean, std)"
        )
    found, said = kind_of(rows), teacher.outputs
    if said == "logits" or said == found:
        return
    if said is not None:
        range_ = f"its values reach from {float(rows.min()):.3g} to {float(rows.max()):.3g}"
        raise ModelError(
            f'{place}.outputs is "{said}", but {called} gives {found.replace("_", "-")} ({TOLD.get(found, range_)}); '
            f'write {place}.outputs = "{found}", or leave it out'
        )
    if found != "logits":
        instead = (
            "whose logarithms are then its logits" if found == "probabilities" else "which are logits up to a constant"
        )
        raise ModelError(
            f'{called} gives {found.replace("_", "-")}, not logits: {TOLD[found]}. Write {place}.outputs = "{found}", {instead}, '
            'or "logits" to distil them as if they were'
        )


def check_knowledge(teacher: Trained, samples: Samples, data: Data, ask: Callable[[str], bool]) -> None:
    """Raise ModelError for a teacher that numbers the classes otherwise; ask about one that is no better than chance.

    It is tried on the hold-out split, and on training samples where that is too small to tell.
    """
    network = teacher.network
    ids = probed(samples, data.seed)
    logits = predict(teacher.load_teacher(samples), samples.train, ids, data)
    known = samples.train.labels[ids] < logits.shape[1]  # it may know the first classes only
    labels, predicted = samples.train.labels[ids][known], logits[known].argmax(1)
    if len(labels) == 0:  # no sample of the classes that it knows: nothing can be told
        return
    _check_order(network, samples, predicted, labels, logits.shape[1], ask)
    right, n = int((predicted == labels).sum()), len(labels)
    low, high = wilson_interval(right, n)
    chance = 100 * float(np.bincount(labels).max()) / n  # of always naming the most frequent class
    found = f"the teacher '{network.model}' gets {100 * right / n:.1f} % of {n} samples right (95 %: {low:.1f} to {high:.1f})"
    if low > chance:
        return
    if high >= chance + A_TENTH * (100 - chance):
        say(f"  {found}, chance is {chance:.1f} %: too few to tell whether it knows anything")
        return
    question = (
        f"{found}, no better than chance ({chance:.1f} %): wrong weights, another normalisation (data.mean, data.std), or "
        "another order of classes (teacher.classes)?"
    )
    if not ask(question):
        raise ModelError(f"{question} To build with it all the same, answer yes, or give --yes")


def probed(samples: Samples, seed: int) -> npt.NDArray[np.int64]:
    """The samples that a teacher is tried on, each class in its share; those of the hold-out split first."""
    n = max(PROBED, OF_A_CLASS * len(samples.classes))
    held, rest = samples.holdout_ids, samples.train_ids
    if len(held) >= n:
        return held[stratified(samples.train.labels[held], n, seed)]
    return np.concatenate([held, rest[stratified(samples.train.labels[rest], n - len(held), seed)]])


def _check_order(
    teacher: Network,
    samples: Samples,
    predicted: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    classes: int,
    ask: Callable[[str], bool],
) -> None:
    mistaken = mistaken_order(predicted, labels, classes)
    if mistaken is None:
        return
    names = [samples.classes[i] for i in mistaken.classes]
    told = (
        f"the teacher '{teacher.model}' numbers the classes otherwise than the data: it gets {mistaken.as_numbered:.1f} % of "
        f"{mistaken.n} samples right, and {mistaken.by_order:.1f} % if its outputs are, in this order: "
        f"teacher.classes = [{', '.join(map(_quoted, names))}]. "
    )
    if teacher.classes is None:
        raise ModelError(f"{told}Write that into the recipe")
    if not ask(f"{told}The recipe's teacher.classes says otherwise."):
        raise ModelError(f"{told}The recipe's teacher.classes says otherwise; to build by it all the same, give --yes")


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
