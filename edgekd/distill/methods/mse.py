"""Logit regression (Ba & Caruana 2014, 1312.6184, section 3)."""

from __future__ import annotations

from torch import Tensor

from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.standardize import standardized


@method(rows=ROWS)
def mse(z_s: Tensor, z_t: Tensor, labels: Tensor | None = None, *, standardize: bool = False) -> Tensor:
    """`½ ‖z_s − z_t‖²`, summed over classes, averaged over the batch (equation 2); z_s, z_t: `[batch, classes]`."""
    z_s, z_t = full(z_s), taught(z_t)
    if standardize:
        z_s, z_t = standardized(z_s), standardized(z_t)
    return 0.5 * (z_s - z_t).square().sum(1).mean()
