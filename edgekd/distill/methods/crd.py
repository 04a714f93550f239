"""Contrastive representation distillation (Tian, Krishnan & Isola 2020, 1910.10699)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import method
from edgekd.distill.methods.geometry import unit
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.sizes import embedding
from edgekd.errors import RecipeError

EPSILON = 1e-7  # as in the authors' code
UNKNOWN = -1
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


@method(
    pooled=True, in_one_process=True, prepares=True, per_sample=True
)  # each process would have its own memory banks
class CRD(nn.Module):
    """Noise-contrastive estimation between the embeddings of student and teacher.

    A sample's student embedding must pick its own teacher embedding out of those of other samples, and vice versa.

        h = P / (P + m/N),  P = exp(e · bank / τ) / Z,  loss = -Σ log h(own) - Σ log(1 - h(others)), mean over the batch

    e: linear maps of both networks' features to `dim` numbers of length 1. The banks hold an embedding of each of the N
    training samples and move by `momentum` towards those of the batch. Z is set on the first training batch and kept.

    Negatives: for each sample, `negatives` of the N - 1 others, drawn uniformly with replacement by torch's own generator.
    If N - 1 is not larger than `negatives`, each other sample is taken once. Negatives known to share the sample's class
    are left out, and m counts the rest. A label is known once its sample was in a batch. So in the first epoch a negative
    may have the same class; from the second epoch on none has.

    f_s, f_t: one pair, `[batch, channels]` or maps, which are averaged over positions; rows: int64 `[batch]`. In eval
    mode banks, labels and Z stay as they are. The banks are part of the state: 2 · N · dim numbers.
    """

    bank_s: Tensor
    bank_t: Tensor
    constant_s: Tensor
    constant_t: Tensor
    known: Tensor

    def __init__(
        self, *, dim: Count = 128, negatives: Count = 16384, temperature: Temperature = 0.07, momentum: Share = 0.5
    ) -> None:
        super().__init__()
        self.dim, self.negatives, self.temperature, self.momentum = dim, negatives, temperature, momentum

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor], samples: int) -> None:
        """Make the linear maps for features of these shapes, and banks of random vectors of length about 1."""
        if len(f_s) != 1:
            raise RecipeError(
                f"method 'crd' compares one pair of layers, the last before the classifier; {len(f_s)} given"
            )
        device = f_s[0].device
        self.embed_s = nn.Linear(embedding(f_s[0]).shape[1], self.dim, device=device)
        self.embed_t = nn.Linear(embedding(f_t[0]).shape[1], self.dim, device=device)
        bound = (3 / self.dim) ** 0.5
        self.register_buffer("bank_s", torch.empty(samples, self.dim, device=device).uniform_(-bound, bound))
        self.register_buffer("bank_t", torch.empty(samples, self.dim, device=device).uniform_(-bound, bound))
        self.register_buffer("constant_s", torch.zeros((), device=device))
        self.register_buffer("constant_t", torch.zeros((), device=device))
        self.register_buffer("known", torch.full((samples,), UNKNOWN, device=device))

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor], labels: Tensor, rows: Tensor) -> Tensor:
        e_s = unit(full(self.embed_s(embedding(full(f_s[0])))))
        e_t = unit(full(self.embed_t(embedding(taught(f_t[0])))))
        if self.training:
            self.known[rows] = labels
        others = self.draw(rows)
        kept = self.known[others] != labels[:, None]
        loss = self._contrast(e_s, self.bank_t, self.constant_s, rows, others, kept)
        loss = loss + self._contrast(e_t, self.bank_s, self.constant_t, rows, others, kept)
        if self.training:
            self._move(self.bank_s, e_s, rows)
            self._move(self.bank_t, e_t, rows)
        return loss

    def draw(self, rows: Tensor) -> Tensor:
        """The numbers of the negatives of each sample, `[batch, negatives]`."""
        count = len(self.known) - 1
        if count <= self.negatives:
            drawn = torch.arange(count, device=rows.device).expand(len(rows), -1)
        else:
            drawn = torch.randint(count, (len(rows), self.negatives), device=rows.device)
        return drawn + (drawn >= rows[:, None])  # skip the sample's own number

    def _contrast(
        self, e: Tensor, bank: Tensor, constant: Tensor, rows: Tensor, others: Tensor, kept: Tensor
    ) -> Tensor:
        # Compute all similarities, then pick those of the negatives: to gather 128 numbers for each negative of each sample
        # would take a thousand times the memory. Cloned, because the bank moves before the backward pass.
        similarities = e @ bank.clone().T
        p = (similarities.gather(1, torch.cat([rows[:, None], others], 1)) / self.temperature).exp()
        with torch.no_grad():
            counted = torch.cat([torch.ones_like(kept[:, :1]), kept], 1)
            z = torch.where(constant > 0, constant, (p * counted).sum() / counted.sum() * len(bank))
            if self.training:
                constant.copy_(z)
        p = p / z
        own, other = p[:, :1], p[:, 1:]
        noise = kept.sum(1, keepdim=True).clamp(min=1) / len(bank)
        log_own = (own / (own + noise + EPSILON)).log()
        log_not_other = (noise / (other + noise + EPSILON)).log().masked_fill(~kept, 0)
        return -(log_own.sum() + log_not_other.sum()) / len(e)

    @torch.no_grad()
    def _move(self, bank: Tensor, e: Tensor, rows: Tensor) -> None:
        bank[rows] = unit(self.momentum * bank[rows] + (1 - self.momentum) * e)
