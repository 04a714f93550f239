"""The stage that quantizes the student, by calibration or by quantization-aware distillation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch.fx import GraphModule

from edgekd.data import Samples, open_samples
from edgekd.data.batches import to_tensor
from edgekd.data.views import permutation
from edgekd.distill.methods import METHODS
from edgekd.distill.student import Lessons, lesson_of
from edgekd.distill.train import Modes, save_weights, train
from edgekd.distill.trained import load_student
from edgekd.losses import Loss, needs_of
from edgekd.quantize import qat
from edgekd.quantize.ptq import calibrate, prepare
from edgekd.recipe import Data, Distill, Quantize, Student
from edgekd.stage import Artifact, stage
from edgekd.target import Quantization

CALIBRATION = 0xCA11  # a coordinate of its own, so that the choice shares no random number with any view
PREPARED = "prepared.safetensors"
LOGITS_ONLY = {"z_s", "z_t", "z_ts", "labels", "epoch"}


@stage(3, ("torch", "torchao", "accelerate"), together=True)
def quantize(
    samples: Artifact, taught_by: Lessons, student: Student, distilled: Artifact, data: Data, settings: Distill,
    quantize: Quantize, quantization: Quantization, *, out: Path,
) -> None:  # fmt: skip
    """Stage: the prepared graph's weights and ranges, `prepared.safetensors`; with `mode = "qat"` also `metrics.jsonl`.

    QAT starts from the distilled student and its calibrated ranges, and learns from the same cache by the same losses
    (those that read logits; by `kd` where there is none) at a low learning rate.
    BatchNorm is folded as in the exported graph from the start; the ranges are frozen for the last
    third of the epochs.
    """
    opened = open_samples(samples.folder, data)
    torch.manual_seed(settings.seed)
    prepared = _prepared(student, distilled, opened, quantization, quantize)
    chosen = np.sort(
        opened.train_ids[permutation(len(opened.train_ids), data.seed, CALIBRATION)[: quantize.calibration_samples]]
    )
    calibrate(
        prepared,
        (
            to_tensor(opened.train.get(ids), data, torch.device("cpu"))
            for ids in np.array_split(chosen, -(-len(chosen) // 128))
        ),
    )
    if quantize.mode == "qat":
        optimizer = settings.optimizer.model_copy(update={"lr": quantize.lr})
        schedule = settings.model_copy(
            update={
                "epochs": quantize.epochs,
                "optimizer": optimizer,
                "warmup_epochs": 0.0,
                "ema": 0.0,
                "precision": "fp32",
            }
        )
        frozen_from = quantize.epochs - math.ceil(quantize.epochs / 3)

        def at_epoch(model: GraphModule, epoch: int) -> None:
            if epoch >= frozen_from:
                qat.freeze_observers(model)
                qat.freeze_bn(model)

        losses = last_losses(settings, has_teacher=bool(taught_by.teachers))
        labels = settings.label_weight if losses else 1.0
        schedule = schedule.model_copy(update={"losses": losses, "label_weight": labels})
        lesson = lesson_of(opened, data, taught_by, schedule)
        train(  # in place: there is no averaging
            prepared, lesson, schedule, out, Modes(qat.train_mode, qat.eval_mode, at_epoch), title="quantized student"
        )
    save_weights(prepared, out / PREPARED)


def last_losses(settings: Distill, *, has_teacher: bool) -> tuple[Loss, ...]:
    """The losses that the quantized student goes on with: those that read logits, at the weights that they ended with.

    The graph has operators, no modules: what reads features or trains a copy of the student stays behind. Where nothing
    is left of the recipe's losses, `kd` takes their place.
    """
    going = [
        loss.model_copy(update={"warmup_epochs": 0.0})
        for loss in settings.losses
        if loss.weight and loss.until_epoch is None and set(needs_of(METHODS[loss.method])) <= LOGITS_ONLY
    ]
    return (Loss(method="kd", weight=1.0),) if settings.losses and not going and has_teacher else tuple(going)


def load_quantized(
    student: Student,
    distilled: Artifact,
    quantized: Artifact,
    samples: Samples,
    quantization: Quantization,
    quantize: Quantize,
) -> GraphModule:
    """What `quantize` made, in eval mode: the graph with its fake-quantizers (QAT) or observers (PTQ) and their ranges."""
    prepared = _prepared(student, distilled, samples, quantization, quantize)
    prepared.load_state_dict(safetensors.torch.load_file(quantized / PREPARED))
    return qat.eval_mode(prepared)


def _prepared(
    student: Student, distilled: Artifact, samples: Samples, quantization: Quantization, quantize: Quantize
) -> GraphModule:
    model = load_student(student, samples, distilled)
    height, width, channels = samples.image_shape
    example = (torch.zeros(2, channels, height, width),)
    return prepare(model, quantization, example, qat=quantize.mode == "qat", keep_float=quantize.keep_float)
