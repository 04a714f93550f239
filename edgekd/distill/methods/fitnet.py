"""FitNets: hints for thin deep nets (Romero et al. 2015, 1412.6550, equation 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from edgekd.distill.methods.sizes import pairs_of_one_size


class FitNet(nn.Module):
    """Sum over layers of `MSE(r(f_s), f_t)`, r a 1x1 convolution with weights of its own.

    f_s, f_t: lists of `[batch, channels, h, w]`. Where the resolutions differ, the larger is average-pooled to the
    smaller before the comparison. The regressors fit the first features that they see (`prepare`), are trained along
    and are no part of the student.
    """

    def __init__(self) -> None:
        super().__init__()
        self.regressors = nn.ModuleList()

    def prepare(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        """Make the regressors for features of these shapes."""
        pairs = zip(f_s, f_t, strict=True)
        self.regressors.extend(nn.Conv2d(s.shape[1], t.shape[1], 1, device=s.device) for s, t in pairs)

    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.regressors:
            self.prepare(f_s, f_t)
        pairs = zip(self.regressors, pairs_of_one_size(f_s, f_t), strict=True)
        return torch.stack([mse_loss(regressor(s), t) for regressor, (s, t) in pairs]).sum()
