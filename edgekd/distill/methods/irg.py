"""Instance relationship graph (Liu et al. 2019, CVPR, "Knowledge distillation via instance relationship graph")."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, mse_loss

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.geometry import differences, embeddings, ratio
from edgekd.distill.methods.options import Weight
from edgekd.distill.methods.precision import full
from edgekd.distill.methods.sizes import embedding


@method(prepares=True, rows=ROWS)
class IRG(nn.Module):
    """`vertex · MSE(vertices) + edge · MSE(edges) + transform · MSE(transformations)`.

    The graph of a layer has the batch's embeddings as vertices and their squared distances as edges.
    - vertices: those of the deepest layer alone, because the method is meant to be milder than matching inner features. If
      widths differ, a linear adapter, trained with the student, takes the student's to the teacher's;
    - edges: `[batch, batch]`, divided by the largest, as in the authors' code; mean over layers;
    - transformations: the distance that each sample moves from a layer to the next, `[batch]`, squared and divided by the
      largest; mean over pairs of consecutive layers. The larger of two widths is averaged over neighbouring channels.

    f_s, f_t: lists, shallow to deep, of maps, which are averaged over positions, or of `[batch, channels]`. A single layer
    has no transformation. The weights are those of common PyTorch versions.
    """

    def __init__(self, *, vertex: Weight = 0.1, edge: Weight = 5.0, transform: Weight = 5.0) -> None:
        super().__init__()
        self.vertex, self.edge, self.transform = vertex, edge, transform
        self.adapter: nn.Module | None = None

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make the adapter for features of these shapes."""
        ours, theirs = embedding(f_s[-1]).shape[1], embedding(f_t[-1]).shape[1]
        self.adapter = nn.Identity() if ours == theirs else nn.Linear(ours, theirs, device=f_s[-1].device)

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if self.adapter is None:
            self.prepare(f_s, f_t)
        assert self.adapter is not None
        layers = list(embeddings(f_s, f_t))
        vertices = mse_loss(full(self.adapter(layers[-1][0])), layers[-1][1])
        unequal = torch.stack([mse_loss(edges(s), edges(t)) for s, t in layers]).mean()
        loss = self.vertex * vertices + self.edge * unequal
        if len(layers) > 1:
            moved = [mse_loss(moves(s, s2), moves(t, t2)) for (s, t), (s2, t2) in pairwise(layers)]
            loss = loss + self.transform * torch.stack(moved).mean()
        return loss


def edges(e: Tensor) -> Tensor:
    """The squared distances of all pairs of samples, divided by the largest, `[batch, batch]`."""
    d = differences(e).square().sum(2)
    return ratio(d, d.amax())


def moves(shallow: Tensor, deep: Tensor) -> Tensor:
    """The squared distances between each sample's two embeddings, divided by the largest, `[batch]`."""
    width = min(shallow.shape[1], deep.shape[1])
    d = (adaptive_avg_pool1d(deep, width) - adaptive_avg_pool1d(shallow, width)).square().sum(1)
    return ratio(d, d.amax())
