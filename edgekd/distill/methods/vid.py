"""Variational information distillation (Ahn et al. 2019, 1904.05835)."""

from __future__ import annotations

from collections.abc import Sequence
from math import expm1, log
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.sizes import pairs_of_one_size

Variance = Annotated[float, Field(gt=0)]


@method(prepares=True, rows=ROWS)
class VID(nn.Module):
    """Sum over layers of the negative log-likelihood of the teacher's feature, `½[log σ² + (f_t − μ(f_s))² / σ²]`.

    f_s, f_t: lists of `[batch, channels, h, w]`; the larger map is average-pooled to the smaller. μ is three 1x1
    convolutions with ReLU between them; σ² has a value for each channel of the teacher. Both are trained with the student.
    The mean is over batch, channels and positions, without the constant ½ log 2π.
    """

    def __init__(self, *, initial_variance: Variance = 5.0, eps: Variance = 1e-5) -> None:
        super().__init__()
        self.initial_variance, self.eps = initial_variance, eps
        self.likelihoods = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make a Gaussian for each pair of features of these shapes."""
        pairs = zip(f_s, f_t, strict=True)
        self.likelihoods = nn.ModuleList(Gaussian(s, t, self.initial_variance, self.eps) for s, t in pairs)

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.likelihoods:
            self.prepare(f_s, f_t)
        pairs = zip(self.likelihoods, pairs_of_one_size(f_s, f_t), strict=True)
        return torch.stack([likelihood(s, t) for likelihood, (s, t) in pairs]).sum()


class Gaussian(nn.Module):
    """The Gaussian `q(f_t | f_s)` with mean μ(f_s) and a variance for each channel, `σ² = softplus(ρ) + ε`."""

    def __init__(self, s: Tensor, t: Tensor, initial_variance: float, eps: float) -> None:
        super().__init__()
        c_s, c_t = s.shape[1], t.shape[1]
        self.mean = nn.Sequential(
            nn.Conv2d(c_s, c_t, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(c_t, c_t, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(c_t, c_t, 1, bias=False),
        ).to(s.device)
        self.rho = nn.Parameter(torch.full((1, c_t, 1, 1), log(expm1(initial_variance - eps)), device=s.device))
        self.eps = eps

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        variance = softplus(self.rho) + self.eps
        error: Tensor = t - self.mean(s)
        return 0.5 * (variance.log() + error.square() / variance).mean()
