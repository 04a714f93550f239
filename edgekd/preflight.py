"""Checks before anything is trained: do the models fit the data, and does the teacher know anything?"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekd.data import Samples, open_samples
from edgekd.distill.features import Taps
from edgekd.distill.objective import Objective
from edgekd.distill.student import new_model
from edgekd.distill.teacher import load_teacher, predict, top1
from edgekd.errors import BundleError, ModelError, RecipeError
from edgekd.export.bundle import check_replaceable
from edgekd.export.trace import trace
from edgekd.models import ExportedModel, OnnxModel, load_model, number_of_classes
from edgekd.recipe import Recipe
from edgekd.stage import Artifact

PROBED = 500  # hold-out samples that the teacher is tried on


def check_output(folder: Path) -> None:
    """Raise BundleError where the bundle could not be written at the end."""
    check_replaceable(folder)
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise BundleError(
            f"cannot write the bundle to {folder}: {there} is not a folder that may be written; give another with --output"
        )


def check_models(recipe: Recipe, samples: Artifact) -> None:
    """Raise ModelError or RecipeError where teacher, student, data and losses do not fit each other.

    That the student can be exported is tried too, before it is trained.
    """
    opened = open_samples(samples.folder, recipe.data)
    channels = opened.image_shape[2]
    if len(recipe.data.mean) not in (1, channels):
        raise RecipeError(
            f"data.mean and data.std have {len(recipe.data.mean)} values, the images {channels} channels; give 1 or {channels}"
        )
    if recipe.distill.batch_size > len(opened.train_ids):
        raise RecipeError(
            f"distill.batch_size is {recipe.distill.batch_size}, but there are {len(opened.train_ids)} training samples; lower it"
        )
    student = new_model(recipe.student, opened, recipe.distill.seed)
    teacher = load_model(recipe.teacher, num_classes=len(opened.classes), in_channels=channels)
    for role, model in (("student", student), ("teacher", teacher)):
        classes = number_of_classes(model, opened.image_shape)
        if classes != len(opened.classes):
            raise ModelError(
                f"the {role} gives {classes} classes, the data has {len(opened.classes)} ({', '.join(opened.classes[:10])})"
            )
    if isinstance(student, OnnxModel | ExportedModel):
        raise ModelError(
            f"student '{recipe.student.model}' cannot be trained; give edgekd:NAME, python:module:function or timm:NAME"
        )
    _check_layers(recipe, student, teacher, opened)
    trace(student.eval(), (torch.zeros(2, channels, *opened.image_shape[:2]),))


def _check_layers(recipe: Recipe, student: nn.Module, teacher: nn.Module, opened: Samples) -> None:
    objective = Objective(recipe.distill.losses, recipe.distill.label_weight)
    if objective.needs_features and isinstance(teacher, OnnxModel | ExportedModel):
        raise RecipeError(
            f"teacher '{recipe.teacher.model}' has no modules that a feature method could read; "
            "use a logit method (kd, mse, dkd, dist), or give the teacher as python:module:function"
        )
    try_losses(objective, student, teacher, opened)


def try_losses(objective: Objective, student: nn.Module, teacher: nn.Module, samples: Samples) -> None:
    """Compute the losses once on two blank images: layers that do not exist or do not fit are told before training."""
    height, width, channels = samples.image_shape
    images, labels = torch.zeros(2, channels, height, width), torch.tensor([0, 1])
    with (
        torch.no_grad(),
        Taps(student, objective.layers_of("student"), "student") as ours,
        Taps(teacher, objective.layers_of("teacher"), "teacher") as theirs,
    ):
        z_s, z_t = student.eval()(images), teacher.cpu()(images)
        for term in objective.terms:
            f_s, f_t = (
                [tapped.features.get(path) for path in paths]
                for tapped, paths in ((ours, term.layers.keys()), (theirs, term.layers.values()))
            )
            given = {"z_s": z_s, "z_t": z_t, "labels": labels, "f_s": f_s, "f_t": f_t}
            try:
                copy.deepcopy(term.method)(*(given[name] for name in term.needs))
            except Exception as error:  # whatever a method makes of features that it was not made for
                shapes = ", ".join(
                    f"{a} {_shape(s)} = {b} {_shape(t)}"
                    for (a, b), s, t in zip(term.layers.items(), f_s, f_t, strict=True)
                )
                raise RecipeError(f"loss '{term.name}' cannot compare {shapes or 'these logits'}: {error}") from error


def _shape(feature: object) -> str:
    return str(list(feature.shape)) if isinstance(feature, torch.Tensor) else f"({type(feature).__name__})"


def check_teacher(recipe: Recipe, samples: Artifact, trained: Artifact | None, ask: Callable[[str], bool]) -> None:
    """Ask whether to go on where the teacher is no better than chance on the hold-out split."""
    opened: Samples = open_samples(samples.folder, recipe.data)
    ids = opened.holdout_ids[:: max(1, len(opened.holdout_ids) // PROBED)]
    labels = opened.train.labels[ids]
    found = top1(predict(load_teacher(recipe.teacher, trained, opened), opened.train, ids, recipe.data), labels)
    chance = 100 * float(np.bincount(labels).max()) / len(labels)
    # Two standard errors above always naming the most frequent class.
    if found > chance + 2 * np.sqrt(chance * (100 - chance) / len(labels)):
        return
    question = (
        f"the teacher gets {found:.1f} % of {len(ids)} hold-out samples right, no better than chance ({chance:.1f} %): "
        "wrong weights, another normalisation (data.mean, data.std), or another order of classes?"
    )
    if not ask(question):
        raise ModelError(f"{question} To build with it all the same, answer yes, or give --yes")
