"""Tf-KD: teacher-free knowledge distillation with a virtual teacher (Yuan et al. 2020, 1909.11723)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.precision import full

Probability = Annotated[float, Field(gt=0, lt=1)]


@method()
def tf_kd(z_s: Tensor, labels: Tensor, *, correct: Probability = 0.99, temperature: Temperature = 20.0) -> Tensor:
    """`KL(softmax(p_d / T) ‖ softmax(z_s))`, summed over classes, averaged over the batch.

    z_s: `[batch, classes]`, labels: int64 `[batch]`. p_d gives `correct` to the true class and shares the rest evenly
    among the others. As in the authors' code, the temperature divides these probabilities, not their logarithms. The
    student's logits have no temperature, and the loss has no factor T². The target is therefore close to uniform. The
    authors average over classes and multiply by a number; for CIFAR-100 the number is 100, which gives the sum.
    """
    z_s = full(z_s)
    p_d = torch.full_like(z_s, (1 - correct) / (z_s.shape[1] - 1)).scatter(1, labels[:, None], correct)
    return kl_div(log_softmax(z_s, 1), log_softmax(p_d / temperature, 1), reduction="batchmean", log_target=True)
