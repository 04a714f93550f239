"""Lesson: the training images, and for each task the labels and the teachers' answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd.data import Samples
from edgekd.data.batches import Step, to_tensor, views_of
from edgekd.data.views import Views
from edgekd.distill.cache import CachedLogits
from edgekd.distill.features import Taps
from edgekd.distill.objective import LabelLoss, TaskObjective
from edgekd.models.memory_format import forward
from edgekd.recipe import Data

Stored = CachedLogits | npt.NDArray[np.float16]
Taught = tuple[torch.Tensor | None, Mapping[str, torch.Tensor]]  # logits `[teachers, batch, classes]`, features by path


@dataclass(frozen=True)
class TaskLesson:
    """A task of the student: its samples are the same images in all tasks, with labels of its own.

    cached: the teachers' logits `[view, sample, class]`, empty where no loss reads them or only the live teacher can give
    them; live: the first teacher itself, for losses that read its features; features: pooled ones by the teacher's module
    path, `[view, sample, channels]`, where these are enough; teacher_data: how the live teacher's images are normalised,
    where otherwise than the student's.
    """

    samples: Samples
    name: str = ""
    weight: float = 1.0
    cached: tuple[Stored, ...] = ()
    live: nn.Module | None = None
    features: Mapping[str, npt.NDArray[np.float16]] = field(default_factory=dict)
    teacher_data: Data | None = None

    def taps(self, objective: TaskObjective) -> Taps:
        """Taps of the teacher's layers that the cache does not hold."""
        paths = [path for path in objective.layers_of("teacher") if path not in self.features]
        return Taps(self.live or nn.Identity(), paths, "teacher")

    def teachers(self, step: Step, images: torch.Tensor, taps: Taps) -> Taught:
        """The teachers' answers to a step: logits `[teachers, batch, classes]`, and features by path.

        They come from the cache; where the live teacher runs anyway, the first's come from it.
        """
        device, logits = images.device, [read(stored, step, images.device) for stored in self.cached]
        if self.live is not None:
            if self.teacher_data is not None:
                images = to_tensor(step.batch.images, self.teacher_data, device)
            with torch.no_grad():
                logits[:1] = [forward(self.live, images).float()]
        features = {path: read(stored, step, device) for path, stored in self.features.items()}
        return torch.stack(logits) if logits else None, features | taps.features


@dataclass(frozen=True)
class Lesson:
    """The training images, how they are augmented and normalised, and the tasks that are learnt on them."""

    data: Data
    tasks: tuple[TaskLesson, ...]

    @property
    def samples(self) -> Samples:
        """The images, which are those of every task."""
        return self.tasks[0].samples

    @property
    def weights(self) -> dict[str, float]:
        """Of the tasks, by name."""
        return {task.name: task.weight for task in self.tasks}

    @property
    def label_losses(self) -> dict[str, LabelLoss]:
        """Of the tasks, by name."""
        return {task.name: task.samples.task.label_loss for task in self.tasks}

    @property
    def views(self) -> Views:
        """The training views, their labels `[samples, tasks]`."""
        labels = np.stack([task.samples.train.labels for task in self.tasks], 1)
        return replace(views_of(self.samples, self.data), labels=labels)


def read(stored: Stored, step: Step, device: torch.device) -> torch.Tensor:
    """What is stored of a step's samples, float32 `[batch, ...]`."""
    return torch.from_numpy(stored[step.view, step.rows]).to(device).float()
