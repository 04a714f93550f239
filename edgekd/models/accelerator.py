"""Where training computes: one function chooses it, and everything else goes where the model is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import chain

import torch
from torch import nn


def device() -> torch.device:
    """The accelerator where there is one, else the processor."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are, or its buffers; the processor where it has neither."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def uses_bf16(precision: str) -> bool:
    """ "auto" is bf16 where the processor or GPU computes in it; emulation in software is slower than float32."""
    if precision != "auto":
        return precision == "bf16"
    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device().type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def autocast(where: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Products in bf16 on the device `where` in the block, or in float32; torch has no autocast for some devices."""
    if not torch.amp.is_autocast_available(where.type):
        return nullcontext()
    return torch.autocast(where.type, torch.bfloat16, enabled=bf16)
