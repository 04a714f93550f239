"""Deep mutual learning (Zhang et al. 2018, 1706.00384)."""

from __future__ import annotations

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


@method(prepares=True, per_sample=True)
class DML(nn.Module):
    """`students` networks learn from each other, without a teacher: the student and its peers.

    Peers have the student's architecture and newly drawn weights. They are trained by the same optimizer and are not part
    of the student.

        student: mean_j KL(p_j ‖ p_s),  each peer: CE + mean_j KL(p_j ‖ p_peer), j all other networks, T² KL at T

    z_s: `[batch, classes]`; arguments: as the student reads them. The gradient of a divergence reaches only its second
    argument, the network that learns. The student's own CE is the trainer's label term. All networks take a step at once;
    in the paper they take turns. The method's weight scales the peers' CE too: leave it at 1. The peers follow the
    method's train and eval mode.
    """

    def __init__(
        self, *, students: Annotated[int, Field(ge=2)] = 2, temperature: Temperature = 1.0, seed: int | None = None
    ) -> None:
        super().__init__()
        self.students, self.temperature, self.seed = students, temperature, seed
        self.peers = nn.ModuleList()

    def prepare(self, student: nn.Module) -> None:
        """Make the peers, with weights drawn by `seed`, or by torch's generator without one."""
        seed = drawn() if self.seed is None else self.seed
        self.peers.extend(fresh(student, seed, number) for number in range(self.students - 1))
        self.peers.train(self.training)

    def forward(self, z_s: Tensor, labels: Tensor, arguments: tuple[Tensor, ...]) -> Tensor:
        logits = [full(z_s), *(full(peer(*arguments)) for peer in self.peers)]
        own = torch.stack([cross_entropy(z, labels) for z in logits[1:]]).sum()
        return own + torch.stack([self._learn(i, logits) for i in range(len(logits))]).sum()

    def _learn(self, i: int, logits: list[Tensor]) -> Tensor:
        others = logits[:i] + logits[i + 1 :]
        return torch.stack([kd(logits[i], other, temperature=self.temperature) for other in others]).mean()
