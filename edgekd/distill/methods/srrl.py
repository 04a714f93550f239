"""Knowledge distillation via softmax regression representation learning (Yang et al. 2021, ICLR)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from edgekd.distill.methods.adapters import connector, head_of, in_full_precision, the_pair
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.options import Weight
from edgekd.distill.methods.precision import full, taught
from edgekd.distill.methods.sizes import embedding
from edgekd.errors import ModelError


@method(auto="last", prepares=True, rows=ROWS, per_sample=True)
class SRRL(nn.Module):
    """`α · MSE(h_s, h_t) + β · MSE(head_t(h_s), z_t)`: the teacher's own head reads the student's feature.

    f_s: the student's last feature `[batch, channels, h, w]`; f_t: the feature that the teacher's head reads, of any
    resolution; z_t: `[batch, classes]`. The convolution and BatchNorm of `h_s = mean_hw relu(BN(conv1x1(f_s)))` are trained
    with the student but not part of it; `h_t = mean_hw f_t`. The means are over batch and entries. α and β are 1 in the
    authors' code (others use β 5).

    The head is a frozen copy of the teacher's last `nn.Linear`, so `prepare` needs the teacher.
    """

    def __init__(self, *, alpha: Weight = 1.0, beta: Weight = 1.0) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.connector = nn.Sequential()
        self.head: nn.Linear | None = None

    def prepare(
        self, f_s: Sequence[Tensor], f_t: Sequence[Tensor], teacher: nn.Module, z_t: Tensor | None = None
    ) -> None:
        """Make the connector and copy the teacher's head. Raises ModelError if the head does not read f_t."""
        s, t = the_pair(f_s, f_t)
        self.head = head_of(teacher, t, z_t)
        self.connector = connector(s, t).append(nn.ReLU())

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor], z_t: Tensor) -> Tensor:
        if self.head is None:
            raise ModelError(
                "srrl reads the student's feature by the teacher's head: call prepare(f_s, f_t, teacher) first"
            )
        s, t = the_pair(f_s, f_t)
        h_s, h_t = embedding(self.connector(full(s))), embedding(taught(t))
        return self.alpha * mse_loss(h_s, h_t) + self.beta * mse_loss(self.head(h_s), taught(z_t))
