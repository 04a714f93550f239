"""DIST: distillation from a stronger teacher (Huang et al. 2022, 2205.10536, equations 8 to 10)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity, softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature, Weight
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.standardize import standardized


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of each row, `[rows, n]` and `[rows, n]` to `[rows]`."""
    return cosine_similarity(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True), dim=1)


def inter_class_relation(p_s: Tensor, p_t: Tensor) -> Tensor:
    """1 − the correlation of student and teacher across the classes of a sample, mean over samples."""
    return 1 - pearson(p_s, p_t).mean()


def intra_class_relation(p_s: Tensor, p_t: Tensor) -> Tensor:
    """1 − the correlation of student and teacher across the samples of a class, mean over classes."""
    return inter_class_relation(p_s.T, p_t.T)


@method()
def dist(
    z_s: Tensor,
    z_t: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: Temperature = 4.0,
    beta: Weight = 1.0,
    gamma: Weight = 1.0,
    standardize: bool = False,
) -> Tensor:
    """`τ² (β inter + γ intra)` on `softmax(z / τ)`; z_s, z_t: `[batch, classes]`."""
    z_s, z_t = full(z_s), taught(z_t)
    if standardize:
        z_s, z_t = standardized(z_s), standardized(z_t)
    p_s, p_t = softmax(z_s / temperature, 1), softmax(z_t / temperature, 1)
    return temperature**2 * (beta * inter_class_relation(p_s, p_t) + gamma * intra_class_relation(p_s, p_t))
