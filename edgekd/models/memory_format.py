"""The memory format of a model: `channels_last`, unless that would fail or give wrong gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd.models.copies import copy_of

BLOCK = 16
"""oneDNN computes with the channels in blocks of 8 (AVX2) or 16 (AVX-512)."""

Arguments = tuple[Tensor, ...]  # the arguments of a network, in the order of its forward
MAP = 4  # axes of a feature map: batch, channels, height, width
NO_VIEW = "view size is not compatible with input tensor's size and stride"

_contiguous: WeakSet[nn.Module] = WeakSet()


def forward(model: nn.Module, arguments: Arguments) -> Any:
    """The result of `model(*arguments)`.

    If the model's own code needs contiguous tensors, as `x.view(n, -1)` does, the arguments are made contiguous.
    """
    if model not in _contiguous:
        try:
            return model(*arguments)
        except RuntimeError as error:
            if NO_VIEW not in str(error):
                raise
        result = model(*arranged(arguments, torch.contiguous_format))  # an error of this call is the model's own
        _contiguous.add(model)
        return result
    return model(*arranged(arguments, torch.contiguous_format))


def arranged(arguments: Arguments, layout: torch.memory_format) -> Arguments:
    """The arguments of a network, converted from channels_last to the memory format `layout`.

    Maps are copied, because for one channel `contiguous()` keeps strides that convolutions take for channels_last.
    """
    if layout is torch.channels_last:
        return arguments
    return tuple(each.clone(memory_format=layout) if each.ndim == MAP else each for each in arguments)


def training_format(
    model: nn.Module, arguments: Arguments, train: Callable[[Any], Any] = nn.Module.train
) -> torch.memory_format:
    """The memory format for training `model`, found with the arguments for a few samples.

    The format is `channels_last`, which oneDNN's convolutions and GPUs prefer. It is contiguous for
    - a model that reads no map `[n, channels, h, w]`, or has weights of three dimensions in space;
    - code that needs contiguous tensors (`x.view(n, -1)` after a convolution);
    - a 1×1 convolution with a stride and fewer inputs than a block, on a processor. There oneDNN writes past its
      workspace (oneDNN #6035, open in 3.14). The gradient of its weights is wrong by half, or the process ends.

    `train` puts a model into training mode. `model` itself stays unchanged.
    """
    if all(each.ndim != MAP for each in arguments) or any(weight.ndim > MAP for weight in model.parameters()):
        return torch.contiguous_format
    maps = [each.to(memory_format=torch.channels_last) if each.ndim == MAP else each for each in arguments]
    trial = copy_of(model)
    train(trial)
    seen = _Convolutions()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]), torch.no_grad(), seen:
        try:
            trial.to(memory_format=torch.channels_last)(*maps)  # type: ignore[call-overload]
        except RuntimeError as error:
            if NO_VIEW not in str(error):
                raise
            return torch.contiguous_format
    return torch.contiguous_format if seen.beyond_workspace else torch.channels_last


class _Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches each convolution on a processor, called by a module or by a function."""

    beyond_workspace = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            images, weight, _, stride, *_ = args
            pointwise = weight.ndim == 4 and tuple(weight.shape[2:]) == (1, 1) and max(stride) > 1
            self.beyond_workspace |= images.device.type == "cpu" and pointwise and weight.shape[1] < BLOCK
        return func(*args, **(kwargs or {}))
