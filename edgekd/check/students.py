"""Checks of students before training: whether a network can learn the task and run on the target."""

from __future__ import annotations

import torch
from torch import nn

from edgekd.check.teachers import told_of
from edgekd.data import Samples
from edgekd.data.batches import examples_of
from edgekd.errors import ModelError
from edgekd.models.adapt import kind_of
from edgekd.models.copies import copy_of
from edgekd.models.memory_format import Arguments
from edgekd.target import Target
from edgekd.tasks.protocol import Holds

SIZES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}  # bytes of a weight


def check_memory(student: nn.Module, target: Target) -> None:
    """Raise ModelError if the student's weights do not fit the target's memory, in the smallest type it runs."""
    size, name = min((SIZES[precision], precision) for precision in target.runtime.precisions)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    most = max(target.hardware.ram_gb, default=float("inf"))
    if parameters * size / 1e9 > most:
        raise ModelError(
            f"the student's {parameters:,} weights take {parameters * size / 1e9:.3g} GB in {name}, {target.title} has {most:g} GB "
            "of memory; take a smaller student, or another target"
        )


def check_trains(model: nn.Module, role: str, samples: Samples) -> None:
    """Raise ModelError if no weight is trainable, or if the output in training has another form than in evaluation."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"no weight of the {role} learns: of all its parameters requires_grad is False; give it weights to train"
        )
    arguments = examples_of(samples, 2)
    copied = copy_of(model)  # a forward pass in training changes the statistics of BatchNorm
    with torch.no_grad():
        expected = copied.eval()(*arguments)
        try:
            found = copied.train()(*arguments)
        except Exception as error:  # a user's forward may raise anything
            reason = next(iter(str(error).strip().splitlines()), "")
            raise ModelError(f"the {role} fails in training: {type(error).__name__}: {reason}") from error
    if (what := _shapes(found)) != (wanted := _shapes(expected)):
        raise ModelError(
            f"the {role} returns {what} in training, and logits {wanted} in evaluation; let it return logits alone "
            "(as an auxiliary head switched off does)"
        )


def _shapes(answer: object) -> str:
    """The shape of a network's answer in words, or those of a tuple."""
    if isinstance(answer, torch.Tensor):
        return str(list(answer.shape))
    if isinstance(answer, tuple) and all(isinstance(each, torch.Tensor) for each in answer):
        return f"a tuple of {len(answer)}: {', '.join(str(list(each.shape)) for each in answer)}"
    return (
        f"a {type(answer).__name__} of {len(answer)}"
        if isinstance(answer, list | dict | tuple)
        else type(answer).__name__
    )


def check_no_softmax(model: nn.Module, role: str, arguments: Arguments, holds: Holds = "classes") -> None:
    """Raise ModelError for a network that ends in a softmax, tried on `arguments`. Losses read logits."""
    with torch.inference_mode():
        found = kind_of(model.eval()(*arguments), holds)
    if found != "logits":
        raise ModelError(
            f"the {role} gives {found.replace('_', '-')} ({told_of(found, holds)}), and losses read logits: take the "
            f"{'sigmoid' if holds == 'labels' else 'softmax'} out of it; "
            'export.output = "probabilities" puts one into the graph that ships'
        )
