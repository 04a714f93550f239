"""adapt: makes a teacher take pictures of the data's size and give logits in the data's order of classes.

    size      pictures are resized after augmentation and normalisation: bilinear, with averages when they shrink, as data.size
              does
    outputs   the logarithm of probabilities is taken, which gives logits up to a constant in each row. A probability of 0
              counts as the least of its type (float32: 1.2e-38, float16: 6e-8). A log-probability is at least that of
              float32, -87.3
    classes   outputs are put into the data's order, by name; outputs for other classes are left out

Hooks of the model itself do that, so that its modules keep their paths and all callers get the same outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from edgekd.errors import ModelError
from edgekd.recipe import TeacherModel
from edgekd.tasks.protocol import Holds, Task

Kind = Literal["logits", "probabilities", "log_probabilities"]
OFF = 0.01  # how far a row of probabilities in half precision may be from 1
LEAST = {torch.float16: 2.0**-24}  # for other types the least normal number


def adapt(model: nn.Module, teacher: TeacherModel, task: Task) -> nn.Module:
    """The same model with hooks for its input and output, as `teacher` describes them. task: the data's."""
    adapt_input(model, teacher)
    adapt_output(model, teacher, task)
    return model


def adapt_input(model: nn.Module, teacher: TeacherModel) -> None:
    """Make the model resize its input pictures to `teacher.size`, if given."""
    if teacher.size is not None:
        model.register_forward_pre_hook(partial(_resize, size=teacher.size))


def adapt_output(model: nn.Module, teacher: TeacherModel, task: Task) -> None:
    """Make the model give logits in the order of the task's names. Raises ModelError if the class names do not fit."""
    order = order_of(teacher, task.names)
    if order == list(range(len(teacher.classes or ()))):
        order = None
    if teacher.outputs in ("probabilities", "log_probabilities") or order is not None:
        logits_of = log_odds if task.holds == "labels" else logarithms
        model.register_forward_hook(partial(_to_logits, outputs=teacher.outputs, order=order, logits_of=logits_of))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The images `[n, channels, h, w]` resized to `size`, with the filter of Pillow's bilinear."""
    if images.shape[2:] == size:
        return images
    return interpolate(images, size, mode="bilinear", antialias=True)


def kind_of(rows: Tensor, holds: Holds = "classes") -> Kind:
    """The kind of a model's outputs `[n, classes, ...]`: probabilities, log-probabilities or logits.

    Probabilities lie in 0..1 and sum to 1 in each row; of log-probabilities the exponentials do. Those of labels need not
    sum to anything, and values are what they are.
    """
    rows = rows.double()
    if holds == "values":
        return "logits"
    if holds == "labels":
        return "probabilities" if rows.min() >= 0 and rows.max() <= 1 else "logits"
    if rows.shape[1] > 1 and rows.min() >= -1e-6 and ((rows.sum(1) - 1).abs() <= OFF).all():
        return "probabilities"
    if rows.shape[1] > 1 and rows.max() <= OFF and (rows.logsumexp(1).abs() <= OFF).all():
        return "log_probabilities"
    return "logits"


def order_of(teacher: TeacherModel, classes: Sequence[str]) -> list[int] | None:
    """The number of the teacher's output for each of the data's classes; None if both number classes alike.

    A teacher may know the first classes only. Raises ModelError if names are missing or occur twice.
    """
    own = teacher.classes
    if own is None:
        return None
    for whose, names in (("teacher.classes", own), ("the data", classes)):
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ModelError(f"{whose} has {_listed(twice)} more than once; each class needs a name of its own")
    number = {name: i for i, name in enumerate(own)}
    known = classes[: len(own)] if set(own) == set(classes[: len(own)]) else classes
    if missing := [name for name in known if name not in number]:
        ours = set(classes)
        more = [name for name in own if name not in ours]
        beside = f", and has {_listed(more)}, which the data has not" if more else ""
        raise ModelError(
            f"teacher.classes lacks {_listed(missing)} of the data's {len(classes)} classes{beside}; give the name of each of the "
            "teacher's outputs, in their order, as the data calls it"
        )
    return [number[name] for name in known]


def _resize(model: nn.Module, inputs: tuple[Any, ...], size: tuple[int, int]) -> tuple[Any, ...]:
    return (resized(inputs[0], size), *inputs[1:])


def logarithms(probabilities: Tensor) -> Tensor:
    """The logarithms of probabilities over classes."""
    least = LEAST.get(probabilities.dtype, torch.finfo(probabilities.dtype).tiny)
    return probabilities.clamp(min=least).float().log()


def log_odds(probabilities: Tensor) -> Tensor:
    """The logits of probabilities of labels. Each probability is at least 1e-7 from 0 and from 1."""
    return probabilities.double().clamp(1e-7, 1 - 1e-7).logit().float()


def _to_logits(
    model: nn.Module,
    inputs: Any,
    rows: Tensor,
    outputs: Kind | None,
    order: list[int] | None,
    logits_of: Callable[[Tensor], Tensor],
) -> Tensor:
    if outputs == "probabilities":
        rows = logits_of(rows)
    elif outputs == "log_probabilities":
        rows = rows.float().clamp(min=float(torch.tensor(torch.finfo(torch.float32).tiny).log()))
    return rows if order is None else rows[:, order]


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
