"""Parts that several feature methods share: adapters of the student's channels, the teacher's head, layer weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

from torch import Tensor, nn

from edgekd.distill.methods.precision import full
from edgekd.distill.methods.sizes import embedding
from edgekd.errors import ModelError
from edgekd.models.accelerator import autocast

P = ParamSpec("P")
HEAD_TOLERANCE = (
    0.05  # of the logits' norm: cached logits are rounded to half precision, and so may the teacher's run be
)


def in_full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Decorates a loss so that its convolutions and matrix products stay in float32 under autocast."""

    @wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first = next(arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor | list | tuple))
        device = first.device if isinstance(first, Tensor) else first[0].device
        with autocast(device, bf16=False):
            return loss(*args, **kwargs)

    return computed


def connector(s: Tensor, t: Tensor) -> nn.Sequential:
    """A 1x1 convolution and BatchNorm from the channels of s to those of t, initialised as in Heo et al. (AB, OFD)."""
    convolution = nn.Conv2d(s.shape[1], t.shape[1], 1, bias=False, device=s.device)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return nn.Sequential(convolution, nn.BatchNorm2d(t.shape[1], device=s.device))


def doubled(layer: int, layers: int) -> float:
    """The weight of a layer in Heo et al. (AB, OFD): 1 for the deepest, then half of the next deeper layer's."""
    return 2.0 ** (layer - layers + 1)


def the_pair(f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The single pair of features of a method that compares only the last layers. Raises ValueError for several."""
    if (len(f_s), len(f_t)) != (1, 1):
        raise ValueError(
            f"this method compares one pair of layers, the last ones; it was given {len(f_s)} and {len(f_t)}"
        )
    return f_s[0], f_t[0]


def head_of(teacher: nn.Module, t: Tensor, z_t: Tensor | None) -> nn.Linear:
    """A frozen copy of the teacher's head: its last `nn.Linear`, which must read the mean of t over positions.

    t: the teacher's feature `[batch, channels, h, w]` or `[batch, channels]`; z_t: its logits for the same images. If z_t
    is given, the copy is checked against it. Raises ModelError if the head does not fit.
    """
    linears = [(path, module) for path, module in teacher.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ModelError(f"the teacher has no nn.Linear that could serve as the head of {t.shape[1]} features")
    path, last = linears[-1]
    if last.in_features != t.shape[1]:
        raise ModelError(
            f"the teacher's head '{path}' takes {last.in_features} features, and the teacher's layer given here puts out "
            f"{t.shape[1]}; choose the layer whose average over positions the head reads"
        )
    head = nn.Linear(last.in_features, last.out_features, bias=last.bias is not None)
    head = head.to(device=t.device, dtype=full(last.weight).dtype).requires_grad_(False)
    head.load_state_dict(last.state_dict())
    if z_t is not None:
        found, expected = head(embedding(t).to(head.weight.dtype)), z_t.to(head.weight)
        if found.shape != expected.shape or (found - expected).norm() > HEAD_TOLERANCE * expected.norm():
            raise ModelError(
                f"the teacher's head '{path}' does not give the teacher's logits from the average of the layer given here; "
                "choose the layer whose average over positions it reads (the last activation before the pooling); a teacher that "
                "pools by the maximum, scales its logits, gives probabilities or numbers the classes otherwise (teacher.classes), has "
                "none: take another method"
            )
    return head
