"""Copies of a network with weights of their own, for methods that train several."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from edgekd.models.accelerator import device_of

APART = 1_000_003  # a student built with torch.manual_seed(seed) would be the same network otherwise


def drawn() -> int:
    """A seed from torch's generator, which the trainer seeds with the recipe's."""
    return int(torch.randint(2**31, ()))


def fresh(model: nn.Module, seed: int, number: int) -> nn.Module:
    """Copy `number` of a network, its weights drawn anew by `reset_parameters` of every module that has it.

    The copy shares nothing with the model, which stays as it is, and has no forward hooks, so that a reader of the
    model's features does not get the copy's. Weights of modules without `reset_parameters` stay the model's. The draw
    depends on seed and number alone and leaves torch's own generator as it was.
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
