"""MLD: multi-label logits distillation (Yang et al. 2023, 2308.06453)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.precision import full, taught


@method(rows=("labels",))
def mld(z_s: Tensor, z_t: Tensor, labels: Tensor | None = None, *, temperature: Temperature = 1.0) -> Tensor:
    """`T² KL([p_t, 1 − p_t] ‖ [p_s, 1 − p_s])` for each label, summed over labels, averaged over the batch.

    z_s, z_t: `[batch, labels]`, `p = σ(z / T)`: each label is a yes-or-no question of its own. The paper has no
    temperature, which is T = 1. The authors' weight is 10.
    """
    z_s, z_t = full(z_s) / temperature, taught(z_t) / temperature
    yes, no = (logsigmoid(sign * z_t) for sign in (1, -1))
    kl = yes.exp() * (yes - logsigmoid(z_s)) + no.exp() * (no - logsigmoid(-z_s))
    return temperature**2 * kl.sum(1).mean()
