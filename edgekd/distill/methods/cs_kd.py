"""CS-KD: class-wise self-knowledge distillation (Yun et al. 2020, 2003.13964)."""

from __future__ import annotations

from torch import Tensor

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.kd import kd
from edgekd.distill.methods.options import Temperature


@method(pairs=True, per_sample=True)
def cs_kd(z_s: Tensor, labels: Tensor, *, temperature: Temperature = 4.0) -> Tensor:
    """`T² KL(p(x')^T ‖ p(x)^T)`, summed over classes, averaged over the pairs.

    x is a sample of the first half of the batch; x' is at the same place of the second half and has the same class. No
    gradient reaches p(x'). So the student teaches itself to answer alike within a class. The trainer's label term is over
    both halves. z_s: `[batch, classes]`, labels: int64 `[batch]`.
    """
    if len(z_s) % 2:
        raise ValueError(
            f"cs_kd: a batch of {len(z_s)} samples given; its halves are pairs, so the number must be even"
        )
    own, partners = labels.chunk(2)
    if differing := int((own != partners).sum()):
        raise ValueError(
            f"cs_kd: {differing} of {len(own)} pairs given have two labels; the second half of the batch must hold "
            "a sample of the same class for each of the first"
        )
    z, z_partner = z_s.chunk(2)
    return kd(z, z_partner, temperature=temperature)
