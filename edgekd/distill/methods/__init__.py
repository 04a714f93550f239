"""Distillation methods: one file each, usable in anybody's training loop.

A method is a function, or an `nn.Module` called the same way where it has weights of its own. Its positional arguments
say what it needs, and the trainer passes these: `z_s, z_t` (logits `[batch, classes]`), `labels` (int64 `[batch]`),
`f_s, f_t` (lists of features, one pair for each entry of the recipe's `layers`). Its hyper-parameters are
keyword-only: the signature is the configuration's schema. All compute in float32, also under autocast.
"""

from collections.abc import Callable
from typing import Any

from edgekd.distill.methods.at import at
from edgekd.distill.methods.dist import dist
from edgekd.distill.methods.dkd import dkd
from edgekd.distill.methods.fitnet import FitNet
from edgekd.distill.methods.kd import kd
from edgekd.distill.methods.mse import mse
from edgekd.distill.methods.standardize import standardized

METHODS: dict[str, Callable[..., Any]] = {"kd": kd, "mse": mse, "dkd": dkd, "dist": dist, "fitnet": FitNet, "at": at}

__all__ = ["METHODS", "FitNet", "at", "dist", "dkd", "kd", "mse", "standardized"]
