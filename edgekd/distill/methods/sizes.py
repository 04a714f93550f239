"""Feature maps of different resolutions, brought to the same size or averaged to vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from edgekd.distill.methods.precision import full, taught


def pairs_of_one_size(f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of maps `[batch, channels, h, w]` of one size: the larger map is average-pooled to the smaller.

    The authors of `at` do so too. Raises ValueError for features that are not maps.
    """
    for s, t in zip(f_s, f_t, strict=True):
        if s.ndim != 4 or t.ndim != 4:
            raise ValueError("it compares maps, [batch, channels, h, w]; choose layers that put these out")
        size = (min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3]))
        yield adaptive_avg_pool2d(full(s), size), adaptive_avg_pool2d(taught(t), size)


def embedding(f: Tensor) -> Tensor:
    """A vector for each sample, `[batch, channels]`.

    Maps `[batch, channels, h, w]` and tokens `[batch, tokens, channels]` are averaged over positions; vectors stay as they
    are. Raises ValueError for other shapes.
    """
    match f.ndim:
        case 2:
            return f
        case 3:
            return f.mean(1)
        case 4:
            return f.mean((2, 3))
    raise ValueError(
        f"it compares vectors, maps or tokens of a sample, not {list(f.shape)}; choose layers that put these out"
    )
