"""Copies of a network with newly drawn weights, for methods that train several networks."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from edgekd.models.accelerator import device_of

APART = 1_000_003  # without it a copy could equal a student built with torch.manual_seed(seed)


def drawn() -> int:
    """A seed from torch's generator, which the trainer seeds with the recipe's seed."""
    return int(torch.randint(2**31, ()))


def fresh(model: nn.Module, seed: int, number: int) -> nn.Module:
    """Copy `number` of a network, with weights newly drawn by the modules' `reset_parameters`.

    The copy shares nothing with the model, which stays unchanged. The copy has no forward hooks, so that taps on the
    model's features do not see it. Modules without `reset_parameters` keep the model's weights. The draw depends on seed
    and number alone and restores torch's own generator.
    """
    device = device_of(model)
    copy = deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + (number + 1) * APART)
        for part in copy.modules():
            part._forward_hooks.clear()
            reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
            if reset is not None:
                reset()
    return copy.to(device)
