"""Networks before and after training: made with a seed, or loaded from what a training stage left."""

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
from edgekd.models import ExportedModel, OnnxModel, accelerator, load_model
from edgekd.models.adapt import adapt
from edgekd.models.init import copy_layers, deeper, every_nth, extend, slice_weights, wider
from edgekd.recipe import Init, Network

WEIGHTS = "student.safetensors"
REUSED = "reused.json"  # where the student reuses its teacher's classifier: at which layer, and what that adds


class Shape(Protocol):
    """What a network is made for: the classes and the input of a split."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def input(self) -> Input: ...


@dataclass(frozen=True)
class Trained:
    """A network with its weights. `weights` None: those that the recipe names or a seed draws."""

    network: Network
    weights: Artifact | None = None

    def load(self, shape: Shape) -> nn.Module:
        """The network in eval mode, with the teacher's classifier where it reuses that (`simkd`)."""
        if self.weights is None:
            return new_model(self.network, shape, 0).eval()
        if (self.weights / REUSED).exists():
            about, weights = json.loads((self.weights / REUSED).read_text()), load_file(self.weights / WEIGHTS)
            whole = rebuilt(new_model(self.network, shape, 0), about["path"], about["size"], weights)
            whole.load_state_dict(weights)
            return whole.eval()
        own = self.network.model_copy(update={"weights": str(self.weights / WEIGHTS)})
        return load_model(own, num_classes=number_of_outputs(own, shape), **shape.input.offers)

    def load_teacher(self, shape: Shape) -> nn.Module:
        """The frozen network where teachers compute, which gives logits in the data's order of classes."""
        model = self.load(shape)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return adapt(model, self.network, shape.classes).to(accelerator.device())


@dataclass(frozen=True)
class FirstWeights:
    """How a student begins (`student.init`), and the network whose weights it takes for that."""

    init: Init
    source: Trained


def new_model(network: Network, shape: Shape, seed: int) -> nn.Module:
    """The network with weights that `seed` fixes (where the recipe names none)."""
    torch.manual_seed(seed)
    return load_model(network, num_classes=number_of_outputs(network, shape), **shape.input.offers)


def number_of_outputs(network: Network, shape: Shape) -> int:
    """The classes, and those of further heads; of a teacher the classes that the recipe names."""
    return len(shape.classes if network.classes is None else network.classes) + sum(network.heads.values())


def initialise(student: nn.Module, begins_with: FirstWeights, shape: Shape) -> None:
    """Give the student the first weights that the recipe asks for. Raises ModelError where the networks do not fit for it."""
    init, source = begins_with.init, begins_with.source.load(shape)
    if isinstance(source, OnnxModel | ExportedModel):
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
    """The student as its training begins."""
    model = new_model(student, shape, seed)
    if begins_with is not None:
        initialise(model, begins_with, shape)
    return model
