"""MLKD: multi-level logit distillation (Jin, Wang & Lin 2023, CVPR)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.standardize import standardized
from edgekd.models.accelerator import autocast

Temperatures = Annotated[tuple[Temperature, ...], Field(min_length=1)]


@method(per_sample=True)
def mlkd(
    z_s: Tensor,
    z_t: Tensor,
    labels: Tensor | None = None,
    *,
    temperatures: Temperatures = (2.0, 3.0, 4.0, 5.0, 6.0),
    standardize: bool = False,
) -> Tensor:
    """The sum over temperatures T of three terms on p = softmax(z / T); z_s, z_t: `[batch, classes]`.

        instances   mean over samples of `T² KL(p_t ‖ p_s)`
        classes     mean over classes of the squared rows of `p_tᵀ p_t − p_sᵀ p_s`, `[classes, classes]`
        batch       mean over samples of the squared rows of `p_t p_tᵀ − p_s p_sᵀ`, `[batch, batch]`

    The teacher's predictions at T = 1 choose the samples and classes that count; all others are zero in these means. A
    sample counts if its largest probability, and a class if its summed probability, is at most the batch's median. The
    authors' released code takes the means first, so that its masks merely halve each term.

    This is the loss for one view of each image; the authors add a second, strongly augmented view. `standardize` concerns
    the first term alone, as in the code of Sun et al. (2403.01427).
    """
    z_s, z_t = full(z_s), taught(z_t)
    unsure, rare = _at_most_median(softmax(z_t, 1).amax(1)), _at_most_median(softmax(z_t, 1).sum(0))
    each_s, each_t = (standardized(z_s), standardized(z_t)) if standardize else (z_s, z_t)
    terms = []
    for t in temperatures:
        p_s, p_t = softmax(z_s / t, 1), softmax(z_t / t, 1)
        terms += [
            (instances(each_s, each_t, t) * unsure).mean(),
            (correlations(p_s.T, p_t.T) * rare).mean(),
            (correlations(p_s, p_t) * unsure).mean(),
        ]
    return torch.stack(terms).sum()


def instances(z_s: Tensor, z_t: Tensor, t: float) -> Tensor:
    """The divergence `T² KL(p_t^T ‖ p_s^T)` of each sample, `[batch]`."""
    return t**2 * kl_div(log_softmax(z_s / t, 1), log_softmax(z_t / t, 1), reduction="none", log_target=True).sum(1)


def correlations(p_s: Tensor, p_t: Tensor) -> Tensor:
    """The squared distance of each row's products with all rows, `[rows, n]` and `[rows, n]` to `[rows]`."""
    with autocast(p_s.device, bf16=False):  # autocast would multiply matrices in half precision
        return (p_t @ p_t.T - p_s @ p_s.T).square().sum(1)


def _at_most_median(x: Tensor) -> Tensor:
    return x <= x.median()
