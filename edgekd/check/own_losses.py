"""try_own: computes a loss of the user's own once before training, on drawn outputs and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from edgekd.distill.objective import ForwardPass, Term
from edgekd.distill.own import place_of
from edgekd.errors import ModelError


def try_own(term: Term, forward: ForwardPass) -> None:
    """Compute an own loss and its gradient on random values in the shapes of a pass.

    Blank samples give equal rows, of which a right loss may be NaN. Raises ModelError with file and line for a loss that
    raises, gives no finite number, or has no gradient to the student.
    """
    draws = torch.Generator().manual_seed(0)

    def drawn(of: Tensor, learns: bool) -> Tensor:
        if not of.is_floating_point():
            return of
        return torch.randn(of.shape, generator=draws).to(of.device).requires_grad_(learns)

    def features(of: Mapping[str, Tensor], learns: bool) -> dict[str, Tensor]:
        return {path: drawn(each, learns) for path, each in of.items()}

    def optional(of: Tensor | None, learns: bool) -> Tensor | None:
        return None if of is None else drawn(of, learns)

    with torch.enable_grad():
        tried = replace(
            forward,
            z_s=drawn(forward.z_s, True), z_ts=optional(forward.z_ts, False),
            m_s=optional(forward.m_s, True), m_ts=optional(forward.m_ts, False),
            f_s=features(forward.f_s, True), f_t=features(forward.f_t, False),
        )  # fmt: skip
        value = term(tried, 0.0)
    if not torch.isfinite(value):
        raise ModelError(
            f"loss '{term.name}' ({place_of(term.declared.call)}) gives {value.item()} on random logits and features; look for a logarithm "
            "or a division by 0, and for probabilities where logits are given"
        )
