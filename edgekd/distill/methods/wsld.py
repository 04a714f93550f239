"""WSLD: weighted soft labels, a bias-variance trade-off (Zhou et al. 2021, 2102.00650)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.standardize import standardized


@method()
def wsld(
    z_s: Tensor, z_t: Tensor, labels: Tensor, *, temperature: Temperature = 2.0, standardize: bool = False
) -> Tensor:
    """`T² (1 − exp(−CE_s / CE_t)) KL(p_t^T ‖ p_s^T)`, averaged over the batch.

    z_s, z_t: `[batch, classes]`, labels: int64 `[batch]`. A sample counts less if the student knows its label better than
    the teacher does. The cross-entropies are of the plain logits, without temperature or standardization. No gradient
    flows through the weight. The paper's α is the recipe's `weight` (2.25 to 2.5).
    """
    z_s, z_t = full(z_s), taught(z_t)
    weight = -(-_ratio(z_s.detach(), z_t, labels)).expm1()
    if standardize:
        z_s, z_t = standardized(z_s), standardized(z_t)
    t = temperature
    kl = kl_div(log_softmax(z_s / t, 1), log_softmax(z_t / t, 1), reduction="none", log_target=True).sum(1)
    return t**2 * (weight * kl).mean()


def _ratio(z_s: Tensor, z_t: Tensor, labels: Tensor) -> Tensor:
    """The ratio CE_s / CE_t, `[batch]`. The 1e-7 of the authors' code guards against a teacher that is certain."""
    return cross_entropy(z_s, labels, reduction="none") / (cross_entropy(z_t, labels, reduction="none") + 1e-7)
