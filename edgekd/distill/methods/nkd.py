"""NKD: normalized knowledge distillation (Yang et al. 2023, 2303.13005)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax, one_hot, softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature, Weight
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.standardize import standardized


@method()
def nkd(
    z_s: Tensor,
    z_t: Tensor,
    labels: Tensor,
    *,
    temperature: Temperature = 1.0,
    gamma: Weight = 1.5,
    standardize: bool = False,
) -> Tensor:
    """`−p_t[y] log p_s[y] − γ T² Σ_{i≠y} q_t[i] log q_s[i]`, averaged over the batch.

    z_s, z_t: `[batch, classes]`, labels: int64 `[batch]`. p is the softmax without temperature: the first term is a
    cross-entropy with the teacher's soft label. q is the softmax with temperature over the other classes alone. The
    defaults are the authors' for ImageNet; for small images they use T 3 and γ 3.5. Both terms are cross-entropies, so
    the least value is not zero.
    """
    z_s, z_t = full(z_s), taught(z_t)
    if standardize:
        z_s, z_t = standardized(z_s), standardized(z_t)
    target = one_hot(labels, z_s.shape[1]).bool()
    p_t, log_p_s = softmax(z_t, 1), log_softmax(z_s, 1)
    q_t, log_q_s = softmax(_others(z_t, target) / temperature, 1), log_softmax(_others(z_s, target) / temperature, 1)
    on_target = -p_t[target] * log_p_s[target]
    on_others = -(q_t * log_q_s).sum(1)
    return (on_target + gamma * temperature**2 * on_others).mean()


def _others(z: Tensor, target: Tensor) -> Tensor:
    """The logits without the target's, `[batch, classes - 1]`.

    The target is removed, not masked: very large logits would survive a large negative number.
    """
    return z[~target].view(len(z), -1)
