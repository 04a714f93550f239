"""The device for training: one function chooses the device, and all other code follows the model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import chain

import torch
from torch import nn


def device() -> torch.device:
    """The accelerator if the machine has one, else the processor."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's weights, or of its buffers; the processor for a model without both."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def uses_bf16(precision: str) -> bool:
    """Whether training uses bf16. "auto": if the processor or GPU computes in bf16, because emulation is slow."""
    if precision != "auto":
        return precision == "bf16"
    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device().type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def autocast(where: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Computes products in the block in bf16 on the device `where`, or in float32.

    Does nothing on devices for which torch has no autocast.
    """
    if not torch.amp.is_autocast_available(where.type):
        return nullcontext()
    return torch.autocast(where.type, torch.bfloat16, enabled=bf16)
