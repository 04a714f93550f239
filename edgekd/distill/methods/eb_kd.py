"""EB-KD: several teachers, weighted by the entropy of their predictions (Kwon, Na, Lee & Kim 2020, ICASSP)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from edgekd.distill.methods.ca_mkd import aversion, weighted_kd
from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.precision import full, taught


@method()
def eb_kd(z_s: Tensor, z_ts: Tensor, labels: Tensor | None = None, *, temperature: Temperature = 4.0) -> Tensor:
    """`Σ_k w_k T² KL(p_k^T ‖ p_s^T)`, averaged over the batch.

    The weights are `w_k = (1 − H_k / Σ_j H_j) / (K − 1)`, with the entropy H_k of teacher k's prediction without
    temperature. For each sample the teachers that are sure count more, whether right or wrong. The weights are those of
    the comparison in CA-MKD's code (2201.00007), divided so that they add up to one.
    z_s: `[batch, classes]`, z_ts: `[teachers, batch, classes]`.
    """
    z_ts = taught(z_ts)
    log_p = log_softmax(z_ts, 2)
    # If every teacher is certain, all entropies are zero; with the 1e-7 the teachers then count alike.
    entropy = -(log_p.exp() * log_p).sum(2) + 1e-7
    return weighted_kd(full(z_s), z_ts, aversion(entropy / entropy.sum(0)), temperature)
