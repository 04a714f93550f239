"""Models before and after training: made with a seed, or loaded from what a training stage left."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file
from torch import nn

from edgekd.base.console import say
from edgekd.cache.stage import Artifact
from edgekd.data import Samples
from edgekd.distill.methods.simkd import rebuilt
from edgekd.errors import ModelError
from edgekd.models import ExportedModel, OnnxModel, load_model
from edgekd.models.init import copy_layers, deeper, every_nth, extend, slice_weights, wider
from edgekd.recipe import Init, Model, Student, TeacherModel

WEIGHTS = "student.safetensors"
REUSED = "reused.json"  # where the student reuses its teacher's classifier: at which layer, and what that adds


def new_model(reference: Model, samples: Samples, seed: int) -> nn.Module:
    """The model with weights that `seed` fixes (where the recipe names none)."""
    torch.manual_seed(seed)
    return load_model(reference, num_classes=number_of_outputs(reference, samples), in_channels=samples.image_shape[2])


def number_of_outputs(reference: Model, samples: Samples) -> int:
    """The classes, and those of a student's further heads; of a teacher the classes that the recipe names."""
    if isinstance(reference, TeacherModel) and reference.classes is not None:
        return len(reference.classes)
    return len(samples.classes) + sum(reference.heads.values() if isinstance(reference, Student) else ())


def initialise(student: nn.Module, init: Init, reference: Model, trained: Artifact | None, samples: Samples) -> None:
    """Give the student the first weights that the recipe asks for, from those of the model `reference`.

    Raises ModelError where the two networks do not fit for it.
    """
    source = new_model(reference, samples, 0) if trained is None else load_student(reference, samples, trained)
    if isinstance(source, OnnxModel | ExportedModel):
        raise ModelError(
            f"student.init reads the weights of '{reference.model}', which has no modules; give edgekd:, python: or timm:"
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


def load_student(reference: Model, samples: Samples, trained: Artifact) -> nn.Module:
    """The distilled student in eval mode, with the teacher's classifier where it reuses that (`simkd`)."""
    if (trained / REUSED).exists():
        about, weights = json.loads((trained / REUSED).read_text()), load_file(trained / WEIGHTS)
        whole = rebuilt(new_model(reference, samples, 0), about["path"], about["size"], weights)
        whole.load_state_dict(weights)
        return whole.eval()
    own = reference.model_copy(update={"weights": str(trained / WEIGHTS)})
    return load_model(own, num_classes=number_of_outputs(reference, samples), in_channels=samples.image_shape[2])
