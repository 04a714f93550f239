"""Segment: a class for each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekd.figures.metric import Judged, Metric
from edgekd.recipe import SegmentTask
from edgekd.tasks.protocol import Answers, Holds, Labels, Outputs
from edgekd.tasks.rows import Grid, Rows

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from torch import Tensor

Masks = NDArray[np.integer]  # [n, h, w]


def intersections_over_unions(judged: Judged) -> NDArray[np.float64]:
    """The intersection over the union of each class, in percent; NaN for a class that neither answers nor masks have.

    judged: `[n, 2 classes]`, the pixels of intersections and then of unions. They are summed over all samples first.
    """
    intersections, unions = np.split(judged.sum(0), 2)
    return np.asarray(100 * np.divide(intersections, unions, out=np.full(len(unions), np.nan), where=unions > 0))


def mean_iou(judged: Judged) -> float:
    """The mean over classes of the intersection over the union, in percent."""
    found = intersections_over_unions(judged)
    return float(np.nanmean(found)) if not np.isnan(found).all() else 0.0


MEAN_IOU = Metric("mean IoU", "%", "higher", value=mean_iou)
"""The mean over classes of intersection over union, with pixels summed over all samples (Everingham et al. 2015, 5.1.4)."""


@dataclass(frozen=True)
class Segment:
    """The task of naming each pixel's class: the class of the largest logit is the answer."""

    names: tuple[str, ...]
    size: tuple[int, int]
    settings: SegmentTask

    @classmethod
    def of(cls, names: tuple[str, ...], shape: tuple[int, ...], settings: SegmentTask) -> Segment:
        """The task of a decoded split with masks of this shape."""
        height, width = shape
        return cls(names, (height, width), settings)

    @property
    def holds(self) -> Holds:
        return "classes"

    @property
    def rows(self) -> Rows:
        return Grid(self.settings.stride, self.settings.ignore_index)

    @property
    def metric(self) -> Metric:
        return MEAN_IOU

    @property
    def outputs(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs, *self.size)

    def label_loss(self, z: Tensor, labels: Labels) -> Tensor:
        """The weighted cross-entropy with the (mixed) masks: the weighted mean of all pixels that are not ignored.

        A batch without such a pixel costs 0.
        """
        import torch

        lam = labels.lam[:, None, None]
        parts = [self._of(z, labels.hard, lam)]
        if labels.partner is not labels.hard:
            parts.append(self._of(z, labels.partner, 1 - lam))
        loss, weight = (torch.stack(part).sum() for part in zip(*parts, strict=True))
        return loss / weight.clamp(min=1e-12)

    def _of(self, z: Tensor, masks: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """The summed loss against some masks and the sum of its weights, each pixel with its sample's share."""
        import torch
        from torch.nn.functional import cross_entropy

        ignore, classes = self.settings.ignore_index, self.settings.class_weights or (1.0,) * self.outputs
        weights = torch.tensor((*classes, 0.0), device=z.device)
        masks = masks.long()
        weight = share * weights[masks.where(masks != ignore, self.outputs)]
        each = cross_entropy(z.float(), masks, reduction="none", ignore_index=ignore)
        return (weight * each).sum(), weight.sum()

    def divergence(self, expected: Tensor, quantized: Tensor) -> Tensor:
        """The divergence KL(expected ‖ quantized), mean of the rows."""
        from torch.nn.functional import kl_div

        return kl_div(quantized.log_softmax(1), expected.log_softmax(1), reduction="batchmean", log_target=True)

    def stored(self, outputs: Outputs) -> Masks:
        """The mask of each sample, uint8 `[n, h, w]`: the logits of a whole split would fill a disk."""
        return np.asarray(outputs.argmax(1), np.uint8)

    def answered(self, stored: Masks) -> Answers:
        """The masks themselves."""
        return stored

    def judge(self, answers: Answers, labels: Masks) -> Judged:
        """Each sample's pixels in the intersection and in the union of each class, `[n, 2 classes]`."""
        counted = labels != self.settings.ignore_index
        found = np.empty((len(labels), 2 * self.outputs), np.float64)
        for number in range(self.outputs):
            ours, own = (answers == number) & counted, labels == number
            found[:, number] = (ours & own).sum((1, 2))
            found[:, self.outputs + number] = (ours | own).sum((1, 2))
        return found

    def parts(self, answers: Answers, labels: Masks) -> dict[str, float]:
        """The intersection over union of each class that occurs, and the share of right pixels, in percent."""
        each = intersections_over_unions(self.judge(answers, labels))
        counted = labels != self.settings.ignore_index
        right = 100 * float(((answers == labels) & counted).sum()) / max(int(counted.sum()), 1)
        classes = {name: round(float(iou), 2) for name, iou in zip(self.names, each, strict=True) if not np.isnan(iou)}
        return {**classes, "pixel accuracy": round(right, 2)}

    def same(self, one: Answers, other: Answers) -> NDArray[np.float64]:
        """The share of pixels where both answers name the same class."""
        return np.asarray((one == other).mean((1, 2)), np.float64)

    def constant(self, labels: Masks) -> tuple[str, Answers]:
        """Always the most frequent class."""
        commonest = int(np.bincount(labels[labels != self.settings.ignore_index], minlength=1).argmax())
        return f"naming {self.names[commonest]} always", np.full(labels.shape, commonest, np.uint8)

    def strata(self, labels: Masks) -> None:
        return None
