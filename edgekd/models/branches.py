"""Branched: branches whose sum is one convolution; fold_of: how a module of any origin folds its branches into one.

While a student trains, each branch has a BatchNorm of its own. What ships is the sum of the folded branches: one convolution
with a bias (structural re-parameterisation, Ding et al. 2021, 2101.03697, section 3.3). edgekd.models.plain folds a copy
before the student is captured for int8 and before it is exported.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

FOLDS = ("reparameterize", "switch_to_deploy")
"""The names that authors give the method: MobileOne's and timm's, and RepVGG's."""


class Branched(nn.Module):
    """A sum of branches on one input, and a ReLU: `[batch, c_in, h, w]` to `[batch, c_out, h/stride, w/stride]`.

    A branch is a convolution with its BatchNorm (`conv`, `bn`), or a BatchNorm alone, which keeps its input. All
    convolutions have the same stride and groups, odd kernels, and paddings of half a kernel.
    """

    reparam_conv: nn.Conv2d | None

    def __init__(self) -> None:
        super().__init__()
        self.register_module("reparam_conv", None)
        self.act = nn.ReLU()

    def branches(self) -> Sequence[nn.Module]:
        """The branches, those with the largest kernel first."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.reparam_conv is not None:
            folded: Tensor = self.act(self.reparam_conv(x))
            return folded
        first, *others = self.branches()
        y = first(x)
        for branch in others:
            y = y + branch(x)
        out: Tensor = self.act(y)
        return out

    def reparameterize(self) -> None:
        """Replaces the branches by one convolution that computes their sum in evaluation mode. A second call does nothing."""
        if self.reparam_conv is not None:
            return
        branches = self.branches()
        like = branches[0].conv
        assert isinstance(like, nn.Conv2d)
        kernels, biases = zip(*(_kernel_and_bias(branch, like) for branch in branches), strict=True)
        learns = any(parameter.requires_grad for parameter in self.parameters())
        folded = copy.deepcopy(like)
        folded.weight = nn.Parameter(torch.stack(kernels).sum(0).to(like.weight), learns)
        folded.bias = nn.Parameter(torch.stack(biases).sum(0).to(like.weight), learns)
        for name in [name for name, _ in self.named_children() if name != "act"]:
            delattr(self, name)
        self.reparam_conv = folded


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A branch: a convolution `conv` and its BatchNorm `bn`, as timm names them."""
    found = nn.Sequential()
    found.add_module("conv", nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False))
    found.add_module("bn", nn.BatchNorm2d(c_out))
    return found


def fold_of(module: nn.Module) -> Callable[[], Any] | None:
    """The method without arguments by which a module folds its branches in place; None if it has no such method.

    A method of this name that needs arguments means something else, such as the draw of a variational autoencoder.
    """
    for name in FOLDS:
        method = getattr(module, name, None)
        if inspect.ismethod(method) and not _needed(method):
            return method
    return None


def _needed(method: Callable[..., Any]) -> list[str]:
    """The arguments that a method needs."""
    parameters = inspect.signature(method).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _kernel_and_bias(branch: nn.Module, like: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """A branch as the kernel and bias of a convolution like `like`, in float64: they are rounded once, after the sum.

    They lie on the processor, because not every accelerator has float64.
    """
    bn = branch if isinstance(branch, nn.BatchNorm2d) else branch.bn
    assert isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None and bn.running_var is not None
    if branch is bn:
        kernel = nn.init.dirac_(torch.empty(like.weight.shape, dtype=torch.float64), like.groups)
    else:
        kernel = _exact(branch.conv.weight)  # type: ignore[arg-type, union-attr]
        around = (like.kernel_size[0] - kernel.shape[-1]) // 2
        kernel = nn.functional.pad(kernel, [around] * 4)
    scale = _exact(bn.weight) / (_exact(bn.running_var) + bn.eps).sqrt()
    return kernel * scale.reshape(-1, 1, 1, 1), _exact(bn.bias) - _exact(bn.running_mean) * scale


def _exact(value: Tensor) -> Tensor:
    return value.detach().cpu().double()
