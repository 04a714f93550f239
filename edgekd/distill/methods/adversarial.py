"""Adversarial distillation of logits: a discriminator tells the teacher's logits from the student's."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.reversal import reversed_gradient


@method(prepares=True, rows=ROWS)
class Adversarial(nn.Module):
    """`-mean log D(z_t) - mean log(1 - D(z_s))`, which the discriminator D lowers and the student raises.

    z_s, z_t: `[batch, classes]`. D is a perceptron of three layers, trained with the student but not part of it. The
    student's gradient is reversed (Ganin & Lempitsky 2015, 1409.7495), so that one optimizer trains both at once. At
    2 log 2 D cannot tell them apart. The loss does not know which sample a logit belongs to: use it beside `kd`.

    After Xu, Hsu & Huang (2017, 1709.00513), who learn the loss of distillation by a discriminator of logits. Their
    discriminator is conditional on the classes and predicts them too, and it takes turns with the student.
    """

    def __init__(self, *, hidden: Annotated[int, Field(ge=1)] = 128) -> None:
        super().__init__()
        self.hidden = hidden
        self.discriminator = nn.Sequential()

    def prepare(self, z_s: Tensor) -> None:
        """Make the discriminator for this number of classes."""
        # No batch norm: it would show the discriminator a batch's means instead of a sample.
        self.discriminator = nn.Sequential(
            nn.Linear(z_s.shape[1], self.hidden), nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, self.hidden), nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, 1),
        ).to(z_s.device)  # fmt: skip

    @in_full_precision
    def forward(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        if not len(self.discriminator):
            self.prepare(z_s)
        theirs = full(self.discriminator(taught(z_t)))
        ours = full(self.discriminator(reversed_gradient(full(z_s))))
        return binary_cross_entropy_with_logits(theirs, torch.ones_like(theirs)) + binary_cross_entropy_with_logits(
            ours, torch.zeros_like(ours)
        )
