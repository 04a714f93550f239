"""LwF: learning without forgetting (Li & Hoiem 2016, 1606.09282)."""

from __future__ import annotations

from torch import Tensor

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.kd import kd
from edgekd.distill.methods.options import Temperature


@method(old_classes=True)
def lwf(z_s: Tensor, z_t: Tensor, labels: Tensor | None = None, *, temperature: Temperature = 2.0) -> Tensor:
    """`T² KL(p_t^T ‖ p_s^T)`, summed over the old classes alone, averaged over the batch.

    z_t: `[batch, old classes]`, logits of the network before the new task; z_s: `[batch, classes]`, old classes first. The
    student's softmax is over the old classes too, so the logits of new classes may rise freely.
    """
    old, classes = z_t.shape[1], z_s.shape[1]
    if old > classes:
        raise ValueError(
            f"lwf: a teacher of {old} classes and a student of {classes} given; the student's first classes must be "
            "the teacher's, so it needs at least as many"
        )
    return kd(z_s[:, :old], z_t, temperature=temperature)
