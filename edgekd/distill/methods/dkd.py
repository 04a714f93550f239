"""Decoupled knowledge distillation (Zhao et al. 2022, 2203.08679, equation 7)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, one_hot

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature, Weight
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.standardize import standardized


@method()
def dkd(
    z_s: Tensor,
    z_t: Tensor,
    labels: Tensor,
    *,
    temperature: Temperature = 4.0,
    alpha: Weight = 1.0,
    beta: Weight = 8.0,
    standardize: bool = False,
) -> Tensor:
    """`T² (α TCKD + β NCKD)`, averaged over the batch; z_s, z_t: `[batch, classes]`, labels: int64 `[batch]`.

    TCKD compares the target class with all other classes together; NCKD compares the distributions among the other
    classes: `KL(p_t ‖ p_s) = TCKD + (1 − p_t[y]) NCKD`.
    """
    z_s, z_t = full(z_s), taught(z_t)
    if standardize:
        z_s, z_t = standardized(z_s), standardized(z_t)
    target = one_hot(labels, z_s.shape[1]).bool()
    b_s, q_s = _decoupled(z_s / temperature, target)
    b_t, q_t = _decoupled(z_t / temperature, target)
    tckd = kl_div(b_s, b_t, reduction="batchmean", log_target=True)
    nckd = kl_div(q_s, q_t, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * tckd + beta * nckd)


def _decoupled(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log of (target, all others) `[batch, 2]`, and log of the distribution among the others `[batch, classes - 1]`.

    The target is removed, not masked: a large negative number would overflow in half precision.
    """
    others = z[~target].view(len(z), -1)
    pair = torch.stack([z[target], others.logsumexp(1)], 1)
    return log_softmax(pair, 1), log_softmax(others, 1)
