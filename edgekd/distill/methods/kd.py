"""Knowledge distillation (Hinton, Vinyals & Dean 2015, 1503.02531, section 2)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.standardize import standardized


@method()
def kd(
    z_s: Tensor, z_t: Tensor, labels: Tensor | None = None, *, temperature: Temperature = 4.0, standardize: bool = False
) -> Tensor:
    """`T² KL(p_t^T ‖ p_s^T)`, summed over classes, averaged over the batch.

    z_s, z_t: `[batch, classes]`. T² keeps the gradient's size as T changes. The label term is the trainer's.
    """
    z_s, z_t = full(z_s), taught(z_t)
    if standardize:
        z_s, z_t = standardized(z_s), standardized(z_t)
    t = temperature
    return t**2 * kl_div(log_softmax(z_s / t, 1), log_softmax(z_t / t, 1), reduction="batchmean", log_target=True)
