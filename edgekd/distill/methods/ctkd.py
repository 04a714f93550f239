"""CTKD: curriculum temperature (Li et al. 2023, 2211.16231)."""

from __future__ import annotations

from math import cos, pi

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature, Weight
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.reversal import reversed_gradient
from edgekd.distill.methods.standardize import standardized


@method()
class CTKD(nn.Module):
    """`T² KL(p_t^T ‖ p_s^T)`, averaged over the batch, with a learnt `T = start + span σ(θ)`.

    The student lowers the loss and θ raises it: the gradient of θ is multiplied by −λ. To make the task harder step by
    step, λ rises from 0 to 1 along half a cosine over the first `warmup` epochs. θ is one number for all samples; it
    starts at 1, where T is 15.6.
    """

    def __init__(
        self,
        *,
        start: Temperature = 1.0,
        span: Weight = 20.0,
        warmup: Weight = 10.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.start, self.span, self.warmup, self.standardize = start, span, warmup, standardize
        self.theta = nn.Parameter(torch.ones(()))

    @property
    def temperature(self) -> Tensor:
        """The current temperature, a scalar with its gradient on θ."""
        return self.start + self.span * full(self.theta).sigmoid()

    def forward(self, z_s: Tensor, z_t: Tensor, labels: Tensor | None, epoch: float) -> Tensor:
        """The loss. z_s, z_t: `[batch, classes]`; epoch: counts steps as fractions."""
        z_s, z_t = full(z_s), taught(z_t)
        if self.standardize:
            z_s, z_t = standardized(z_s), standardized(z_t)
        t = reversed_gradient(self.temperature, self._lambda(epoch))
        return t**2 * kl_div(log_softmax(z_s / t, 1), log_softmax(z_t / t, 1), reduction="batchmean", log_target=True)

    def _lambda(self, epoch: float) -> float:
        progress = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        return (1 - cos(pi * progress)) / 2
