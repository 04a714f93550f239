"""Class weights: the cross-entropy with the labels in which each class has a weight, as rare classes need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from edgekd.data import Samples
from edgekd.distill.lesson import Lesson
from edgekd.distill.objective import LabelLoss
from edgekd.recipe import Distill
from edgekd.tasks.protocol import Labels


def balanced_weights(labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    """The weight of each class, `[classes]`: n / (k · n_c), so that all classes weigh alike and the mean weight is 1.

    labels: `[n]`; n_c: the samples of class c; k: the number of classes that have samples. A class without any has the
    weight 1, which nothing reads. This is "balanced" of scikit-learn (`compute_class_weight`), after King & Zeng 2001,
    "Logistic Regression in Rare Events Data".
    """
    counts = np.bincount(labels, minlength=classes)
    shares = np.count_nonzero(counts) * np.maximum(counts, 1)
    return np.where(counts > 0, len(labels) / shares, 1.0)


def weighted_cross_entropy(z: Tensor, labels: Labels, weights: Tensor) -> Tensor:
    """The weighted mean of the rows' cross-entropies, as torch's `CrossEntropyLoss(weight=...)` has it.

    z: logits `[batch, classes]`; weights: `[classes]`. With mix-up a row has the share `lam` of its label's weight and
    loss, and the share `1 - lam` of its partner's.
    """
    weights = weights.to(z.device)
    own, partner = labels.lam * weights[labels.hard], (1 - labels.lam) * weights[labels.partner]
    loss = own * cross_entropy(z.float(), labels.hard, reduction="none")
    loss = loss + partner * cross_entropy(z.float(), labels.partner, reduction="none")
    return loss.sum() / (own + partner).sum()


def weights_of(settings: Distill, samples: Samples) -> npt.NDArray[np.float64] | None:
    """The weight of each class for `distill.class_weights`, `[classes]`; None if the recipe gives none."""
    if settings.class_weights is None:
        return None
    if settings.class_weights == "balanced":
        return balanced_weights(samples.train.labels[samples.train_ids], samples.task.outputs)
    return np.array(settings.class_weights)


def label_losses(lesson: Lesson, settings: Distill) -> dict[str, LabelLoss]:
    """The label loss of each task, by name. The classes of the first task are weighted if the recipe says so."""
    losses = lesson.label_losses
    if (found := weights_of(settings, lesson.samples)) is not None:
        weights = torch.from_numpy(found).float()
        losses[lesson.tasks[0].name] = lambda z, labels: weighted_cross_entropy(z, labels, weights)
    return losses
