"""Knowledge distillation by on-the-fly native ensemble (Lan, Zhu & Gong 2018, 1806.04606)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.fresh import drawn, fresh
from edgekd.distill.methods.kd import kd
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.precision import full
from edgekd.distill.methods.sizes import embedding
from edgekd.errors import RecipeError
from edgekd.models.cut import after


@method(auto="before_last", prepares=True, per_sample=True)
class ONE(nn.Module):
    """`Σ CE(extra branches) + CE(ensemble) + Σ T² KL(p_ensemble ‖ p_branch)`, the last sum over all branches.

    The student's layers after the named layer (the fork) are one of the `branches`. The extra branches start at the fork
    with the same architecture and newly drawn weights; they are not part of the student. Their gradient reaches the
    student's layers before the fork. The ensemble's logits are a weighted sum of the branches' logits. A gate gives each
    sample's weights: the fork's feature, averaged over positions, through linear, batch norm, ReLU and softmax. The
    divergence teaches the branches, not the ensemble.

    z_s: `[batch, classes]`, f_s: the output of the fork. The student's own CE is the trainer's label term. The authors let
    the divergence alone rise over 80 epochs; a recipe's `warmup_epochs` lets the branches' CE rise too.
    """

    def __init__(
        self, *, branches: Annotated[int, Field(ge=2)] = 3, temperature: Temperature = 3.0, seed: int | None = None
    ) -> None:
        super().__init__()
        self.count, self.temperature, self.seed = branches, temperature, seed
        self.branches = nn.ModuleList()
        self.gate = nn.Sequential()

    def prepare(self, f_s: Sequence[Tensor], student: nn.Module, paths: Sequence[str]) -> None:
        """Make the gate, and the branches after the student's layer at `paths[0]`.

        The weights of branches are drawn by `seed`, or by torch's generator without one.
        """
        if len(paths) != 1:
            raise RecipeError(f"method 'one' forks the student at one layer; {len(paths)} given: {', '.join(paths)}")
        seed = drawn() if self.seed is None else self.seed
        # Cut from copies, because the student's hooks would see the traced values. In train mode, as the branches are used.
        self.branches.extend(after(fresh(student, seed, i).train(), paths[0]) for i in range(self.count - 1))
        width = embedding(f_s[0]).shape[1]
        self.gate = nn.Sequential(
            nn.Linear(width, self.count), nn.BatchNorm1d(self.count), nn.ReLU(), nn.Softmax(dim=1)
        ).to(f_s[0].device)

    def forward(self, z_s: Tensor, labels: Tensor, f_s: Sequence[Tensor]) -> Tensor:
        fork = full(f_s[0])
        # Cloned, because a branch may begin with an in-place activation.
        logits = torch.stack([full(z_s), *(full(branch(fork.clone())) for branch in self.branches)])
        gate = full(self.gate(embedding(fork)))
        ensemble = (gate.T[:, :, None] * logits).sum(0)
        own = torch.stack([cross_entropy(z, labels) for z in (*logits[1:], ensemble)]).sum()
        return own + torch.stack([kd(z, ensemble, temperature=self.temperature) for z in logits]).sum()
