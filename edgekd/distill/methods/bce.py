"""Binary cross-entropy on the teacher's probabilities: each class is a separate yes-or-no question."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.precision import full, taught


@method()
def bce(z_s: Tensor, z_t: Tensor, labels: Tensor | None = None) -> Tensor:
    """`BCE(σ(z_s), softmax(z_t))`, summed over classes, averaged over the batch; z_s, z_t: `[batch, classes]`.

    The student learns logits whose sigmoid is the teacher's probability, so they have a meaning without a softmax. The
    least value is the teacher's own binary entropy, not zero. Standardized logits could not reach it, because a sigmoid
    depends on the scale and shift of its logits. So there is no option `standardize`.
    """
    z_s, p_t = full(z_s), softmax(taught(z_t), 1)
    return binary_cross_entropy_with_logits(z_s, p_t, reduction="none").sum(1).mean()
