"""Distillation methods: one file each, usable in anybody's training loop.

A method is a function, or an `nn.Module` called the same way where it has weights of its own. Its hyper-parameters are
keyword-only: the signature is the configuration's schema. All compute in float32 also under autocast (precision.py), and
none lets a gradient reach the teacher. Its positional arguments say what it needs, and the trainer passes these:

    z_s, z_t    logits `[batch, classes]` of student and teacher
    z_ts        logits of all teachers, `[teachers, batch, classes]`
    labels      int64 `[batch]`
    f_s, f_t    lists of features, one pair for each entry of the recipe's `layers`
    images      what the student saw, float `[batch, channels, h, w]`
    rows        int64 `[batch]`, each sample's number among the training samples, 0 to samples - 1
    epoch       float, counting steps as fractions

A module may have `prepare(...)`, which the trainer calls once before it makes the optimizer, in eval mode, without
gradients, on one batch. It may ask for the same by name, and for `student`, `teacher` (the live modules), `classes` and
`samples` (numbers). What a method must see of a batch is said by its attributes: `pooled = True`, features of
`[batch, channels]` serve it too (so that they are read from the cache); `pairs = True`, the second half of the batch
holds a sample of the same class for each of the first.
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
