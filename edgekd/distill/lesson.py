"""Lesson: the training samples with the labels and the teachers' answers of each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd.data import Samples
from edgekd.data.batches import Step, arguments_of
from edgekd.data.views import Views
from edgekd.distill.cache import CachedLogits
from edgekd.distill.features import Taps
from edgekd.distill.objective import LabelLoss, TaskObjective
from edgekd.inputs import Input
from edgekd.models.memory_format import Arguments, forward

Stored = CachedLogits | npt.NDArray[np.float16]


class TeacherPass(NamedTuple):
    """The teachers' answers to a batch: what is kept of their logits, `[teachers, batch, ..., classes]`, and features by path.

    The logits are None if no loss reads them.
    """

    z_ts: torch.Tensor | None
    f_t: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class TaskLesson:
    """A task of the student. All tasks have the same samples; each has its own labels.

    cached: the teachers' logits `[view, sample, ..., class]`; empty if no loss reads them or only the live teacher gives them.
    live: the first teacher itself, for losses that read its features. features: pooled features `[view, sample, channels]`
    by the teacher's module path, if these suffice. teacher_input: the live teacher's preprocessing, if it differs from
    the student's.
    """

    samples: Samples
    name: str = ""
    weight: float = 1.0
    cached: tuple[Stored, ...] = ()
    live: nn.Module | None = None
    features: Mapping[str, npt.NDArray[np.float16]] = field(default_factory=dict)
    teacher_input: Input | None = None

    def taps(self, objective: TaskObjective) -> Taps:
        """Taps for the teacher's layers whose features are not cached."""
        paths = [path for path in objective.layers_of("teacher") if path not in self.features]
        return Taps(self.live or nn.Identity(), paths, "teacher")

    def teachers(self, step: Step, arguments: Arguments, taps: Taps) -> TeacherPass:
        """The teachers' answers to a step: kept logits `[teachers, batch, ..., classes]`, and features by path.

        The answers come from the cache. If the live teacher runs, the first teacher's logits come from that run.
        """
        device = arguments[0].device
        logits = [read(stored, step, device) for stored in self.cached]
        if self.live is not None:
            if self.teacher_input is not None:
                arguments = arguments_of(self.teacher_input, step.batch.inputs, device)
            with torch.no_grad():
                outputs = forward(self.live, arguments).float()
            logits[:1] = [self.samples.task.rows.kept(outputs, self.samples.train_ids[step.rows], step.view)]
        features = {path: read(stored, step, device) for path, stored in self.features.items()}
        return TeacherPass(torch.stack(logits) if logits else None, features | taps.features)


@dataclass(frozen=True)
class Lesson:
    """The tasks that a student learns on the same training samples."""

    tasks: tuple[TaskLesson, ...]

    @property
    def samples(self) -> Samples:
        """The training samples, the same for every task."""
        return self.tasks[0].samples

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each task, by name."""
        return {task.name: task.weight for task in self.tasks}

    @property
    def label_losses(self) -> dict[str, LabelLoss]:
        """The label loss of each task, by name."""
        return {task.name: task.samples.task.label_loss for task in self.tasks}

    @property
    def views(self) -> Views:
        """The training views, with the labels of every task."""
        return replace(self.samples.views, learnt={task.name: task.samples.learnt for task in self.tasks})


def read(stored: Stored, step: Step, device: torch.device) -> torch.Tensor:
    """The stored values for a step's samples, float32 `[batch, ...]`."""
    return torch.from_numpy(stored[step.view, step.rows]).to(device).float()
