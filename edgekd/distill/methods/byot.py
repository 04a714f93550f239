"""Be your own teacher (Zhang et al. 2019, 1905.08094): self-distillation from the deepest layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import method
from edgekd.distill.methods.kd import kd
from edgekd.distill.methods.options import Temperature, Weight
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.sizes import embedding
from edgekd.errors import RecipeError


@method(prepares=True, per_sample=True)
class BYOT(nn.Module):
    """Sum over inner layers of `labels · CE + logits · T² KL(p ‖ p_head) + features · ‖adapted - deepest‖²`.

    Each inner layer has a head, trained with the student but not part of it. The head is a bottleneck to the size and
    width of the deepest map, a mean over positions, and a linear classifier. p are the student's own probabilities. The
    last term is summed over channels of the averaged features and averaged over the batch. No gradient reaches z_s and
    the deepest feature, which teach. The student's own CE is the trainer's label term.

    z_s: `[batch, classes]`; f_s: at least two layers, shallow to deep. The last is a map or `[batch, channels]`, the
    others are maps `[batch, channels, h, w]`.
    """

    def __init__(
        self, *, labels: Weight = 0.7, logits: Weight = 0.3, features: Weight = 0.03, temperature: Temperature = 3.0
    ) -> None:
        super().__init__()
        self.labels, self.logits, self.features, self.temperature = labels, logits, features, temperature
        self.adapters, self.classifiers = nn.ModuleList(), nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], classes: int) -> None:
        """Make the heads for features of these shapes."""
        *inner, deepest = f_s
        if not inner:
            raise RecipeError("method 'byot' teaches inner layers by the deepest: name at least two, shallow to deep")
        if any(f.ndim != 4 for f in inner):
            shapes = ", ".join(str(tuple(f.shape)) for f in inner)
            raise RecipeError(
                f"method 'byot' needs inner layers that put out maps [batch, channels, h, w]; given {shapes}"
            )
        width, device = deepest.shape[1], deepest.device
        self.adapters.extend(bottleneck(f, deepest).to(device) for f in inner)
        self.classifiers.extend(nn.Linear(width, classes, device=device) for _ in inner)

    @in_full_precision
    def forward(self, z_s: Tensor, labels: Tensor, f_s: Sequence[Tensor]) -> Tensor:
        *inner, deepest = f_s
        heads = zip(self.adapters, self.classifiers, inner, strict=True)
        target = embedding(taught(deepest))
        losses = []
        for adapter, classifier, f in heads:
            adapted = embedding(full(adapter(full(f))))
            z = full(classifier(adapted))
            distance = mse_loss(adapted, target, reduction="sum") / len(z)
            losses.append(
                self.labels * cross_entropy(z, labels)
                + self.logits * kd(z, z_s, temperature=self.temperature)
                + self.features * distance
            )
        return torch.stack(losses).sum()


def bottleneck(f: Tensor, deepest: Tensor) -> nn.Sequential:
    """The authors' bottleneck from an inner feature to the size and width of the deepest.

    A 1×1 convolution to a quarter of the width, a strided convolution to the size, a 1×1 convolution to the width.
    """
    height, width = deepest.shape[2:] if deepest.ndim == 4 else (1, 1)
    step = (max(1, f.shape[2] // height), max(1, f.shape[3] // width))
    channels = deepest.shape[1]
    middle = max(1, channels // 4)
    return nn.Sequential(
        nn.Conv2d(f.shape[1], middle, 1), nn.BatchNorm2d(middle), nn.ReLU(),
        nn.Conv2d(middle, middle, step, step), nn.BatchNorm2d(middle), nn.ReLU(),
        nn.Conv2d(middle, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(),
    )  # fmt: skip
