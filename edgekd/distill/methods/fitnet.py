"""FitNets: hints for thin deep nets (Romero et al. 2015, 1412.6550, equation 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from edgekd.distill.methods.adapters import in_full_precision
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.sizes import pairs_of_one_size


def channel_attention(f_t: Tensor) -> Tensor:
    """Channel weights `a_c = C · softmax_c(mean_hw |f_t|)` with mean 1: `[batch, c, h, w]` to `[batch, c, 1, 1]`."""
    squeezed = f_t.abs().mean((2, 3), keepdim=True)
    return f_t.shape[1] * squeezed.softmax(1)


@method(prepares=True, rows=ROWS)
class FitNet(nn.Module):
    """Sum over layers of `MSE(r(f_s), f_t)`, r a 1x1 convolution with weights of its own.

    f_s, f_t: lists of `[batch, channels, h, w]`. If the resolutions differ, the larger map is average-pooled to the
    smaller. The regressors take their sizes from the first features (`prepare`), are trained with the student and are not
    part of it. The paper first fits the hint and then distils; here both are learnt at once (`until_epoch` ends the hint).

    attention: weigh each channel's squared error by the teacher's `channel_attention`, as in Yang et al. 2022
    (2111.11837) at temperature 1. FitNets has no such weights.
    """

    def __init__(self, *, attention: bool = False) -> None:
        super().__init__()
        self.attention = attention
        self.regressors = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make the regressors for features of these shapes."""
        pairs = zip(f_s, f_t, strict=True)
        self.regressors = nn.ModuleList(nn.Conv2d(s.shape[1], t.shape[1], 1, device=s.device) for s, t in pairs)

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.regressors:
            self.prepare(f_s, f_t)
        pairs = zip(self.regressors, pairs_of_one_size(f_s, f_t), strict=True)
        return torch.stack([self._error(regressor(s), t) for regressor, (s, t) in pairs]).sum()

    def _error(self, hint: Tensor, t: Tensor) -> Tensor:
        if self.attention:
            return (channel_attention(t) * (hint - t).square()).mean()
        return mse_loss(hint, t)
