"""The stages that quantize the student: by calibration and refinements, or by quantization-aware distillation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from edgekd.base.console import say
from edgekd.base.draws import permutation
from edgekd.cache.stage import Artifact, stage
from edgekd.data import Samples
from edgekd.data.batches import arguments_of
from edgekd.distill.own import method_of
from edgekd.distill.train import Modes, save_weights, train
from edgekd.models.forward import predict
from edgekd.models.free import free_sizes
from edgekd.models.memory_format import Arguments, arranged
from edgekd.quantize import qat
from edgekd.quantize.cle import equalize
from edgekd.quantize.layers import give_biases
from edgekd.quantize.ptq import prepare, set_ranges
from edgekd.quantize.refine import refine
from edgekd.quantize.same import ROWS, distance
from edgekd.quantize.sensitivity import float_operators, sensitivities
from edgekd.quantize.statistics import load_statistics, observe, save_statistics
from edgekd.recipe import Distill, Training
from edgekd.recipe.losses import Loss, title_of
from edgekd.steps.distill import lesson_of
from edgekd.steps.problem import TrainingSet
from edgekd.steps.teaching import Teaching
from edgekd.steps.trained import Trained
from edgekd.target import Quantization
from edgekd.tasks.scores import value_of

CALIBRATION = 0xCA11  # a coordinate of its own, so that the choice shares no random number with any view
BATCH = 32
PREPARED = "prepared.safetensors"
STATISTICS = "statistics.safetensors"
IN_FLOAT, SENSITIVITY, HOLDOUT = "in_float.json", "sensitivity.json", "holdout.json"
SENSITIVITY_BATCHES = 8  # batches that are run once for each layer
LIBRARIES = ("torch", "torchao", "numpy")


@dataclass(frozen=True)
class Subject:
    """The student to quantize, with the target's scheme, the number of calibration samples, and layers kept in float."""

    student: Trained
    on: TrainingSet
    scheme: Quantization
    calibration_samples: int
    keep_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A way to quantize: the method for ranges, the refinements, layers kept in float, or training of the weights."""

    calibration: str
    refine: tuple[str, ...] = ()
    in_float: tuple[str, ...] = ()
    trained: bool = False

    @property
    def equalized(self) -> bool:
        """Whether the weights are equalized before calibration, which then sees other activations."""
        return "cle" in self.refine


@stage(10, LIBRARIES, of="subject")
def record_activations(subject: Subject, equalized: bool, in_float: tuple[str, ...], *, out: Path) -> None:
    """Stage: a single pass over the calibration samples, `statistics.safetensors`, from which every method sets ranges.

    Also writes `in_float.json`: the operators that the scheme has no rule for.
    """
    opened = subject.on.open()
    prepared = _prepared(subject, opened, Plan("", refine=("cle",) if equalized else (), in_float=in_float))
    save_statistics(observe(prepared, calibration_batches(subject, opened)), out / STATISTICS)
    (out / IN_FLOAT).write_text(json.dumps([asdict(operator) for operator in float_operators(prepared)]))


@stage(10, LIBRARIES, of="subject")
def quantize(subject: Subject, statistics: Artifact, plan: Plan, *, out: Path) -> None:
    """Stage: post-training quantization. Writes `prepared.safetensors`, the weights and ranges of the prepared graph."""
    opened = subject.on.open()
    prepared = _prepared(subject, opened, plan)
    set_ranges(prepared, load_statistics(statistics / STATISTICS), plan.calibration)
    if {"adaround", "bias_correction"} & set(plan.refine):
        refine(prepared, list(calibration_batches(subject, opened)), plan.refine)
    save_weights(prepared, out / PREPARED)


@stage(7, LIBRARIES, of="subject")
def measure_sensitivity(subject: Subject, statistics: Artifact, plan: Plan, *, out: Path) -> None:
    """Stage: the cost of quantizing each layer alone, on some of the calibration samples, `sensitivity.json`."""
    opened = subject.on.open()
    prepared = _prepared(subject, opened, plan)
    set_ranges(prepared, load_statistics(statistics / STATISTICS), plan.calibration)
    batches = list(islice(calibration_batches(subject, opened), SENSITIVITY_BATCHES))
    (out / SENSITIVITY).write_text(
        json.dumps([asdict(layer) for layer in sensitivities(prepared, batches, opened.task)])
    )


@stage(4, LIBRARIES, of="subject")
def score_holdout(subject: Subject, plan: Plan | None, quantized: Artifact | None, *, out: Path) -> None:
    """Stage: the score of the quantized or of the float student on the hold-out split, `holdout.json`."""
    opened = subject.on.open()
    if plan is None or quantized is None:
        model: nn.Module = subject.student.load(opened)
    else:
        model = load_quantized(subject, plan, quantized)
    ids = opened.holdout_ids
    (stored,) = predict(model, opened.train, ids, [opened.task])
    found = value_of(opened.task, stored, opened.train.labels[ids])
    (out / HOLDOUT).write_text(json.dumps({"value": found, "n": len(ids)}))


@stage(8, (*LIBRARIES, "accelerate"), of="subject", together=True)
def train_quantized(
    subject: Subject, statistics: Artifact, plan: Plan, teaching: Teaching, training: Training, *, out: Path
) -> None:
    """Stage: quantization-aware distillation, `prepared.safetensors` and `metrics.jsonl`.

    The training starts from the distilled student and its calibrated ranges, at a low learning rate. It learns from the
    same cache by the losses that read logits, or by `kd` if no such loss is left. BatchNorm is folded from the start, as in
    the exported graph. In the last third of the epochs the ranges, and the statistics of BatchNorms that were not folded,
    are frozen.
    """
    opened, settings = subject.on.open(), teaching.settings
    torch.manual_seed(settings.seed)
    prepared = _prepared(subject, opened, plan)
    set_ranges(prepared, load_statistics(statistics / STATISTICS), plan.calibration)
    losses = last_losses(settings, has_teacher=any(task.teachers for task in teaching.tasks))
    if dropped := [title_of(loss.method) for loss in settings.losses if loss.weight and not _reads_logits_alone(loss)]:
        going = ", ".join(title_of(loss.method) for loss in losses) or "the labels"
        say(f"  {', '.join(dropped)} cannot go on in the quantized graph, which has no modules: it learns by {going}")
    schedule = settings.model_copy(
        update={
            "epochs": training.epochs,
            "optimizer": settings.optimizer.model_copy(update={"lr": training.lr}),
            "warmup_epochs": 0.0,
            "ema": 0.0,
            "keep": "last",  # the ranges are frozen in the last epochs alone
            "patience": None,
            "precision": "fp32",
            "losses": losses,
            "label_weight": settings.label_weight if losses else 1.0,
        }
    )
    lesson = lesson_of(replace(teaching, settings=schedule))
    # `train` changes the graph in place, because nothing is averaged.
    train(prepared, lesson, schedule, out, modes_of(training.epochs), title="quantized student")
    save_weights(prepared, out / PREPARED)


def modes_of(epochs: int) -> Modes:
    """The modes of a prepared graph. Ranges and statistics are frozen in the last third of the epochs."""
    frozen_from = epochs - math.ceil(epochs / 3)

    def at_epoch(model: GraphModule, epoch: int) -> None:
        if epoch >= frozen_from:
            qat.freeze_observers(model)
            qat.freeze_bn(model)

    return Modes(qat.train_mode, qat.eval_mode, at_epoch)


def last_losses(settings: Distill, *, has_teacher: bool) -> tuple[Loss, ...]:
    """The losses for the quantized student: those that read logits, at their final weights.

    The graph has operators instead of modules, so losses that read features or train a copy of the student are dropped. If
    no loss of the recipe is left, `kd` replaces them.
    """
    going = [
        loss.model_copy(update={"warmup_epochs": 0.0})
        for loss in settings.losses
        if loss.weight and loss.until_epoch is None and _reads_logits_alone(loss)
    ]
    return (Loss(method="kd", weight=1.0),) if settings.losses and not going and has_teacher else tuple(going)


def _reads_logits_alone(loss: Loss) -> bool:
    return method_of(loss.method).reads_logits_alone


def load_quantized(subject: Subject, plan: Plan, quantized: Artifact) -> GraphModule:
    """The graph that was quantized by `plan`, in eval mode, with its fake-quantizers and their ranges."""
    prepared, _ = load_compared(subject, plan, quantized, None)
    return prepared


def load_compared(
    subject: Subject, plan: Plan, quantized: Artifact, arguments: Arguments | None
) -> tuple[GraphModule, float | None]:
    """The graph of `load_quantized`, and its distance from the student's own module on `arguments`.

    The distance is the relative root mean square of the difference, with all quantizers off and with the distilled
    student's weights. Later weights (AdaRound, training) belong to the graph alone. None without `arguments`.
    """
    samples = subject.on.open()
    prepared, apart = _prepared(subject, samples, plan), None
    if arguments is not None:
        model = subject.student.load(samples).eval()
        with torch.no_grad(), qat.in_float(prepared):
            apart = distance(tree_leaves(prepared(*arguments)), tree_leaves(model(*arguments)))
    prepared.load_state_dict(safetensors.torch.load_file(quantized / PREPARED))
    return qat.eval_mode(prepared), apart


def calibration_batches(subject: Subject, samples: Samples) -> Iterator[Arguments]:
    """A network's arguments for unaugmented training samples, chosen by the seed of the data."""
    order = permutation(len(samples.train_ids), subject.on.data.seed, CALIBRATION)
    chosen = np.sort(samples.train_ids[order[: subject.calibration_samples]])
    for ids in np.array_split(chosen, -(-len(chosen) // BATCH)):
        yield arguments_of(samples.input, samples.train.get(ids), torch.device("cpu"))


def _prepared(subject: Subject, samples: Samples, plan: Plan) -> GraphModule:
    model = subject.student.load(samples)
    # The captured graph is compared with the student on real samples.
    real = arguments_of(samples.input, samples.train.get(samples.train_ids[:ROWS]), torch.device("cpu"))
    example = arranged(real, torch.contiguous_format)
    in_float = (*subject.keep_float, *plan.in_float)
    prepared = prepare(
        model, subject.scheme, example, qat=plan.trained, keep_float=in_float, free=free_sizes(samples.input.arguments)
    )
    if "bias_correction" in plan.refine:
        give_biases(prepared)
    if plan.equalized:
        equalize(prepared)
    return prepared
