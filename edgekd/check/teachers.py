"""Checks of a teacher before training: its input, its outputs, its order of classes, its knowledge."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd.base.console import say
from edgekd.check.class_order import mistaken_order
from edgekd.data import Samples
from edgekd.data.batches import examples_of
from edgekd.data.draw import drawn
from edgekd.errors import ModelError
from edgekd.figures.metric import score_of
from edgekd.figures.words import valued
from edgekd.inputs import Arrays, Image, Input
from edgekd.models import ExportedModel, OnnxModel, number_of_classes
from edgekd.models.adapt import adapt_input, adapt_output, kind_of
from edgekd.models.forward import logits_of, predict
from edgekd.models.memory_format import MAP
from edgekd.models.reference import fixed, shapes_of
from edgekd.recipe import Network
from edgekd.steps.trained import Trained, new_model
from edgekd.tasks.protocol import Holds

PROBED = 500  # samples that a teacher is tried on, at least
OF_A_CLASS = 10  # samples per class, if that is more in all
SHOWN = 8  # pictures that show the kind of the outputs
A_TENTH = 0.1  # of the way from chance to always right: a teacher certainly below this is no better than chance
FREE_BATCH = "; a free batch: torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)) with x of two samples"
TOLD = {
    "probabilities": "its rows lie between 0 and 1 and sum to 1",
    "log_probabilities": "the exponentials of its rows sum to 1",
}


def told_of(kind: str, holds: Holds) -> str:
    """What shows that outputs are of this kind."""
    return "all its values lie between 0 and 1" if holds == "labels" else TOLD[kind]


def checked_teacher(teacher: Network, place: str, samples: Samples) -> tuple[nn.Module, int]:
    """The adapted teacher (edgekd.models.adapt), and the number of classes that it knows.

    place: the teacher's table in the recipe, for messages; samples: as the teacher sees them. Raises ModelError if the
    teacher takes other samples, or gives other outputs than the recipe says.
    """
    model = new_model(teacher, samples, 0, lambda told: say(f"  {_called(place)} {told}"))
    example = examples_of(samples, 2)
    if teacher.size is not None and (len(example) > 1 or example[0].ndim != MAP):
        raise ModelError(
            f"{place}.size is [{teacher.size[0]}, {teacher.size[1]}], and the {samples.input.noun} are no pictures: {shapes_of(example)}; "
            f"leave {place}.size out"
        )
    _check_input(model, teacher, place, samples.input, example)
    adapt_input(model, teacher)
    resizable = not teacher.size and isinstance(samples.input, Image)
    remedy = f"; where it was made for another size, write {place}.size = [height, width]" if resizable else ""
    maps = samples.task.shape[1:]
    outputs = number_of_classes(model, example, f"{_called(place)} '{teacher.model}'", remedy, samples.input.noun, maps)
    if teacher.classes is not None and len(teacher.classes) != outputs:
        raise ModelError(
            f"{place}.classes has {len(teacher.classes)} names, {_called(place)} '{teacher.model}' gives {outputs} outputs; "
            "name each of them, in their order"
        )
    _check_outputs(model, teacher, place, samples)
    adapt_output(model, teacher, samples.task)
    return model, number_of_classes(model, example, maps=maps)


def _called(place: str) -> str:
    return "the teacher" if place == "teacher" else f"the teacher {place}"


def _check_input(
    model: nn.Module, teacher: Network, place: str, input: Input, example: tuple[torch.Tensor, ...]
) -> None:
    """Compare the inputs that a file declares with the data. example: the arguments for a few samples."""
    if not isinstance(model, OnnxModel | ExportedModel):
        return
    offered = f"the data gives {shapes_of(example)}"
    shown = " and ".join(
        "[" + ", ".join("any" if side is None else str(side) for side in sizes) + "]" for sizes in model.takes
    )
    called = f"{_called(place)} '{teacher.model}' takes {input.noun} {shown}"
    if [len(sizes) for sizes in model.takes] != [each.ndim for each in example]:
        raise ModelError(f"{called}, {offered}; give a teacher that takes what the data gives, normalised floats")
    if teacher.size is None and (len(example) > 1 or example[0].ndim != MAP):
        free = zip(model.takes, example, strict=True)
        if any(
            own not in (None, side) for sizes, each in free for own, side in zip(sizes[1:], each.shape[1:], strict=True)
        ):
            raise ModelError(f"{called}, {offered}")
    else:
        _check_size(model.takes[0], teacher, place, example[0], called, offered)
    if (batch := fixed(model.takes)) is not None and batch < SHOWN:
        say(
            f"  {_called(place)} '{teacher.model}' is written for batches of {batch}: it is run in such pieces, which takes longer"
            f"{FREE_BATCH if isinstance(model, ExportedModel) else ''}"
        )


def _check_size(
    takes: tuple[int | None, ...], teacher: Network, place: str, example: torch.Tensor, called: str, offered: str
) -> None:
    """Compare the channels and size of an image teacher with the data's. called, given: both sides in words."""
    channels, height, width = example.shape[1:]
    wanted = (None, channels, *(teacher.size or (height, width)))
    if takes[1] not in (None, channels):
        remedy = f"; write data.channels = {takes[1]}" if takes[1] in (1, 3) and channels in (1, 3) else ""
        raise ModelError(f"{called}, {offered}{remedy}")
    if any(own not in (None, side) for own, side in zip(takes[2:], wanted[2:], strict=True)):
        own = [side if mine is None else mine for mine, side in zip(takes[2:], (height, width), strict=True)]
        offered = f"{place}.size is [{wanted[2]}, {wanted[3]}]" if teacher.size else offered
        raise ModelError(f"{called}, {offered}; write {place}.size = {own}, and the pictures are resized for it")


def _check_outputs(model: nn.Module, teacher: Network, place: str, samples: Samples) -> None:
    """Raise ModelError for outputs of another kind than the recipe says, and for outputs of NaN."""
    if samples.data.is_synthetic:  # synthetic training pictures do not exist yet
        rng = np.random.default_rng(0)
        raw: Arrays = {
            of.name: rng.integers(0, 256, (SHOWN, *of.stored)).astype(of.dtype) for of in samples.input.fields
        }
    else:
        raw = samples.train.get(samples.train_ids[:SHOWN])
    rows = logits_of(model, samples.input, raw)
    called = f"{_called(place)} '{teacher.model}'"
    if torch.isnan(rows).any():
        raise ModelError(
            f"{called} gives NaN on training pictures; mend its weights, or its normalisation ({place}.mean, std)"
        )
    kind, said = kind_of(rows, samples.task.holds), teacher.outputs
    if said == "logits" or said == kind:
        return
    holds = samples.task.holds
    if said is not None:
        shown = f"its values reach from {float(rows.min()):.3g} to {float(rows.max()):.3g}"
        shown = shown if kind == "logits" else told_of(kind, holds)
        raise ModelError(
            f'{place}.outputs is "{said}", but {called} gives {kind.replace("_", "-")} ({shown}); '
            f'write {place}.outputs = "{kind}", or leave it out'
        )
    if kind != "logits":
        instead = (
            "whose logarithms are then its logits" if kind == "probabilities" else "which are logits up to a constant"
        )
        raise ModelError(
            f'{called} gives {kind.replace("_", "-")}, not logits: {told_of(kind, holds)}. Write {place}.outputs = "{kind}", {instead}, '
            'or "logits" to distil them as if they were'
        )


def check_knowledge(teacher: Trained, samples: Samples, ask: Callable[[str], bool]) -> None:
    """Raise ModelError for a teacher with another order of classes; ask about a teacher no better than chance.

    The teacher is tried on the hold-out split, and also on training samples if the hold-out split is too small.
    """
    network, task = teacher.network, samples.task
    ids = probed(samples, samples.data.seed)
    (stored,) = predict(teacher.load_teacher(samples), samples.train, ids, [task])
    labels = samples.train.labels[ids]
    if task.strata(labels) is not None:
        known = labels < stored.shape[1]  # the teacher may know the first classes only
        labels, stored = labels[known], stored[known]
        if len(labels) == 0:  # without samples of the teacher's classes it cannot be judged
            return
        _check_order(network, samples, task.answered(stored), labels, stored.shape[1], ask)
    metric, n = task.metric, len(labels)
    judged, (constantly, constant) = task.judge(task.answered(stored), labels), task.constant(labels)
    chance = metric.value(task.judge(constant, labels))
    score = score_of(metric, judged, runtime="torch")
    worst, best = (score.low, score.high) if metric.sign > 0 else (score.high, score.low)
    found = (
        f"the teacher '{network.model}' has {valued(score.value, metric.unit)} {metric.name} on {n} samples (95 %: "
        f"{score.low:.4g} to {score.high:.4g})"
    )
    if metric.sign * (worst - chance) > 0:
        return
    ideal = 100.0 if metric.sign > 0 else 0.0
    if metric.sign * (best - (chance + A_TENTH * (ideal - chance))) >= 0:
        say(f"  {found}, {constantly} has {chance:.4g}: too few to tell whether it knows anything")
        return
    scaled = ", another normalisation (data.mean, data.std)" if isinstance(samples.input, Image) else ""
    question = (
        f"{found}, no better than chance ({constantly}: {chance:.4g}): wrong weights{scaled}, or another "
        "order of classes (teacher.classes)?"
    )
    if not ask(question):
        raise ModelError(f"{question} To build with it all the same, answer yes, or give --yes")


def probed(samples: Samples, seed: int) -> npt.NDArray[np.int64]:
    """The ids of samples to try a teacher on, each class in its share. Hold-out samples come first."""
    n = max(PROBED, OF_A_CLASS * len(samples.classes))
    held, rest = samples.holdout_ids, samples.train_ids

    def some(ids: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
        return ids[drawn(samples.task.strata(samples.train.labels[ids]), len(ids), most, seed)]

    return some(held, n) if len(held) >= n else np.concatenate([held, some(rest, n - len(held))])


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
