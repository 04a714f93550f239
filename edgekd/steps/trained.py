"""Networks before and after training: made with a seed, or loaded from the files of a training stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import nn

from edgekd.base.console import say
from edgekd.cache.stage import Artifact
from edgekd.distill.methods.simkd import rebuilt
from edgekd.errors import ModelError
from edgekd.inputs import Input
from edgekd.models import CalledModel, ExportedModel, OnnxModel, accelerator, load_model
from edgekd.models.adapt import adapt
from edgekd.models.init import copy_layers, deeper, every_nth, extend, slice_weights, wider
from edgekd.models.reference import Tell
from edgekd.recipe import Init, Network
from edgekd.tasks.protocol import Task

WEIGHTS = "student.safetensors"
REUSED = "reused.json"  # for a student that reuses its teacher's classifier: the layer, and the added parameters


class Shape(Protocol):
    """The task and the input of a split, which give a network its sizes."""

    @property
    def task(self) -> Task: ...
    @property
    def input(self) -> Input: ...


@dataclass(frozen=True)
class Trained:
    """A network with its weights. Without `weights` they come from the recipe's file or from a seed."""

    network: Network
    weights: Artifact | None = None

    def load(self, shape: Shape) -> nn.Module:
        """The network in eval mode, with the teacher's classifier if it reuses that (`simkd`)."""
        if self.weights is None:
            return new_model(self.network, shape, 0).eval()
        if (self.weights / REUSED).exists():
            about, weights = json.loads((self.weights / REUSED).read_text()), load_file(self.weights / WEIGHTS)
            untrained = self.network.model_copy(update={"weights": None})  # a student's file may fit in part
            whole = rebuilt(new_model(untrained, shape, 0), about["path"], about["size"], weights)
            whole.load_state_dict(weights)
            return whole.eval()
        own = self.network.model_copy(update={"weights": str(self.weights / WEIGHTS)})
        return load_model(own, num_classes=number_of_outputs(own, shape), **shape.input.offers)

    def load_teacher(self, shape: Shape) -> nn.Module:
        """The frozen network on the accelerator, adapted to give logits in the data's order of classes."""
        model = self.load(shape)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return adapt(model, self.network, shape.task).to(accelerator.device())


@dataclass(frozen=True)
class FirstWeights:
    """The setting `student.init`, and the network whose weights it reads."""

    init: Init
    source: Trained


def new_model(
    network: Network, shape: Shape, seed: int, tell: Tell | None = None, *, partly: bool = False
) -> nn.Module:
    """The network with the recipe's weights, or else with weights drawn by `seed`.

    With `partly`, for a student, weights may fit in part. `tell` is told what was taken (edgekd.models.weights).
    """
    torch.manual_seed(seed)
    outputs = number_of_outputs(network, shape)
    return load_model(network, num_classes=outputs, tell=tell, partly=partly, **shape.input.offers)


def number_of_outputs(network: Network, shape: Shape) -> int | tuple[int, ...]:
    """The number of outputs: those of the task and those of further heads. A teacher may name its own classes.

    A tuple with the number of each head, if one gives maps: then the network gives a tensor for each.
    """
    own = len(shape.task.names if network.classes is None else network.classes)
    each = (own, *(head[0] for head in network.heads.values()))
    return each if gives_tuple(network, shape.task) else sum(each)


def gives_tuple(network: Network, task: Task) -> bool:
    """Whether a network with several heads gives a tensor for each, because one of them is a map."""
    return bool(network.heads) and any(len(shape) > 1 for shape in (task.shape, *network.heads.values()))


def initialise(student: nn.Module, begins_with: FirstWeights, shape: Shape) -> None:
    """Give the student the first weights that the recipe asks for. Raises ModelError if the networks do not fit."""
    init, source = begins_with.init, begins_with.source.load(shape)
    if isinstance(source, OnnxModel | ExportedModel | CalledModel):
        raise ModelError(
            f"student.init reads the weights of '{begins_with.source.network.model}', which has no modules; give edgekd:, python: or "
            "timm:"
        )
    match init.how:
        case "copy":
            pairs = every_nth(student, source) if init.layers == "every_nth" else init.layers
            say("  student.init copies " + ", ".join(f"{ours} = {theirs}" for ours, theirs in pairs.items()))
            copy_layers(student, source, pairs)
        case "slice":
            slice_weights(student, source)
        case "wider":
            wider(source, student, noise=init.noise)
        case "deeper":
            deeper(source, student)
        case "extend":
            extend(student, source)


def new_student(student: Network, begins_with: FirstWeights | None, shape: Shape, seed: int) -> nn.Module:
    """The student at the start of its training."""
    model = new_model(student, shape, seed, partly=True)
    if begins_with is not None:
        initialise(model, begins_with, shape)
    return model
