"""The memory format that a model computes in: `channels_last`, but where it would fail or give wrong gradients."""

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

NO_VIEW = "view size is not compatible with input tensor's size and stride"

_contiguous: WeakSet[nn.Module] = WeakSet()


def forward(model: nn.Module, images: Tensor) -> Any:
    """`model(images)`; once more with contiguous images where the model's own code needs them, as `x.view(n, -1)` does."""
    if model not in _contiguous:
        try:
            return model(images)
        except RuntimeError as error:
            if NO_VIEW not in str(error):
                raise
        result = model(arranged(images, torch.contiguous_format))  # an error of this one is the model's own
        _contiguous.add(model)
        return result
    return model(arranged(images, torch.contiguous_format))


def arranged(images: Tensor, layout: torch.memory_format) -> Tensor:
    """`images` that are in channels_last in the memory format `layout`.

    Copied: of one channel `contiguous()` keeps strides that convolutions take for channels_last.
    """
    return images if layout is torch.channels_last else images.clone(memory_format=layout)


def training_format(
    model: nn.Module, images: Tensor, train: Callable[[Any], Any] = nn.Module.train
) -> torch.memory_format:
    """The memory format to train `model` in, found on a few `images` `[n, channels, h, w]`; `model` stays as it is.

    It is `channels_last`, which oneDNN's convolutions and GPUs prefer, but for
    - code that needs contiguous tensors (`x.view(n, -1)` behind a convolution);
    - a 1×1 convolution with a stride and fewer inputs than a block, on a processor: oneDNN then writes past its
      workspace (oneDNN #6035, open in 3.14). Its weights' gradient is wrong by half, or the process ends.

    `train` puts a model into training mode.
    """
    trial = copy_of(model)
    train(trial)
    seen = _Convolutions()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]), torch.no_grad(), seen:
        try:
            trial.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        except RuntimeError as error:
            if NO_VIEW not in str(error):
                raise
            return torch.contiguous_format
    return torch.contiguous_format if seen.beyond_workspace else torch.channels_last


class _Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at each convolution that runs on a processor, whether a module or a function made it."""

    beyond_workspace = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            images, weight, _, stride, *_ = args
            pointwise = weight.ndim == 4 and tuple(weight.shape[2:]) == (1, 1) and max(stride) > 1
            self.beyond_workspace |= images.device.type == "cpu" and pointwise and weight.shape[1] < BLOCK
        return func(*args, **(kwargs or {}))
