"""Teacher bounded regression (Chen et al. 2017, NeurIPS, "Learning efficient object detection models", equation 4)."""

from __future__ import annotations

from torch import Tensor

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Weight
from edgekd.distill.methods.precision import full, taught


@method(rows=("values",))
def teacher_bounded(z_s: Tensor, z_t: Tensor, labels: Tensor, *, margin: Weight = 0.0) -> Tensor:
    """`‖z_s − y‖²` where `‖z_s − y‖² + m > ‖z_t − y‖²`, else 0; summed over values, averaged over the batch.

    z_s, z_t, labels y: `[batch, values]`, as the task scales them. The teacher's values are no target: they may be wrong
    without bound. They bound how far the student is taught. A student that is better than the teacher by the margin m
    is left alone. The paper adds half of this loss to the label term.
    """
    z_s, y = full(z_s), full(labels)
    ours, theirs = ((z - y).square().sum(1) for z in (z_s, taught(z_t)))
    return (ours * (ours + margin > theirs)).mean()
