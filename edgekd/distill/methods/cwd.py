"""CWD: channel-wise distillation for dense prediction (Shu et al. 2021, 2011.13256, equations 3 to 5)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from edgekd.distill.methods.declare import method
from edgekd.distill.methods.options import Temperature
from edgekd.distill.methods.sizes import pairs_of_one_size


@method()
def cwd(m_s: Tensor, m_t: Tensor, *, temperature: Temperature = 4.0) -> Tensor:
    """`T² KL(φ_t ‖ φ_s)` for each channel, summed over positions, averaged over batch and channels.

    m_s, m_t: maps of logits `[batch, classes, h, w]`; the larger map is average-pooled to the smaller. φ is the softmax
    of a channel over the positions: where the class is, not which class is at a position. So the shift of a channel does
    not count. The authors' weight is 3.

    In your own loop it also compares features of equal widths, for which the authors' weight is 50.
    """
    ((s, t),) = pairs_of_one_size([m_s], [m_t])
    if s.shape[1] != t.shape[1]:
        raise ValueError(f"cwd compares channel by channel; given {s.shape[1]} and {t.shape[1]} channels")
    log_s, log_t = (log_softmax(m.flatten(2).flatten(0, 1) / temperature, 1) for m in (s, t))
    return temperature**2 * kl_div(log_s, log_t, reduction="batchmean", log_target=True)
