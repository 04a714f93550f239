"""CA-MKD: confidence-aware multi-teacher knowledge distillation (Zhang, Chen & Wang 2022, 2201.00007)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.precision import full, taught


@method()
def ca_mkd(z_s: Tensor, z_ts: Tensor, labels: Tensor, *, temperature: Temperature = 4.0) -> Tensor:
    """`Σ_k w_k T² KL(p_k^T ‖ p_s^T)`, averaged over the batch.

    The weights are `w_k = (1 − softmax_k(CE_k)) / (K − 1)`, with teacher k's cross-entropy CE_k without temperature. For
    each sample the teachers that know its label count more; the weights add up to one.
    z_s: `[batch, classes]`, z_ts: `[teachers, batch, classes]`, labels: int64 `[batch]`. The paper's second term, on
    features, is left out.
    """
    z_ts = taught(z_ts)
    # Computed by hand: `cross_entropy` needs the classes on the second axis.
    ce = -log_softmax(z_ts, 2)[:, torch.arange(len(labels), device=labels.device), labels]
    return weighted_kd(full(z_s), z_ts, aversion(ce.softmax(0)), temperature)


def aversion(shares: Tensor) -> Tensor:
    """Weights `(1 − share) / (K − 1)`, larger for a smaller share.

    shares: `[teachers, batch]`. Shares that add up to one over the teachers give weights that do so too. A single
    teacher's weight is one.
    """
    return (1 - shares) / (len(shares) - 1) if len(shares) > 1 else torch.ones_like(shares)


def weighted_kd(z_s: Tensor, z_ts: Tensor, weights: Tensor, t: float) -> Tensor:
    """The weighted sum of the teachers' `T² KL`, averaged over the batch; weights: `[teachers, batch]`."""
    log_p_s, log_p_ts = log_softmax(z_s / t, 1).expand_as(z_ts), log_softmax(z_ts / t, 2)
    kl = kl_div(log_p_s, log_p_ts, reduction="none", log_target=True).sum(2)
    return t**2 * (weights * kl).sum(0).mean()
