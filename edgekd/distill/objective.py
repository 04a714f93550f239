"""The objective: the label term and the recipe's losses, added up and named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgekd.distill.methods import METHODS
from edgekd.errors import RecipeError
from edgekd.losses import Loss

Layers = Mapping[str, str]


@dataclass(frozen=True)
class Labels:
    """Labels of a batch, int64 `[batch]`; with mix-up a share `1 - lam` belongs to `partner`."""

    hard: Tensor
    partner: Tensor
    lam: Tensor


@dataclass(frozen=True)
class Term:
    """One loss of the recipe, ready to be called; `needs` are the names of its positional arguments."""

    name: str
    method: Callable[..., Any]
    needs: tuple[str, ...]
    weight: float
    warmup_epochs: float
    layers: Layers

    def weight_at(self, epoch: float) -> float:
        """The weight, rising linearly over the warm-up; `epoch` counts steps as fractions."""
        return self.weight * min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else self.weight


class Objective(nn.Module):
    """`total = label_weight · CE + Σ weight · method(...)`, and each term by name.

    Methods with weights are its children, so that its parameters are those the trainer optimises beside the student's.
    """

    def __init__(self, losses: Sequence[Loss], label_weight: float) -> None:
        super().__init__()
        self.label_weight = label_weight
        losses = [loss for loss in losses if loss.weight]
        self.terms = [_term(loss, i, losses) for i, loss in enumerate(losses)]
        self.methods = nn.ModuleDict(
            {term.name: term.method for term in self.terms if isinstance(term.method, nn.Module)}
        )

    @property
    def needs_features(self) -> bool:
        """Some method reads features, for which the teacher runs live."""
        return any("f_t" in term.needs for term in self.terms)

    def layers_of(self, role: str) -> list[str]:
        """The module paths whose outputs the methods read; `role` is "student" or "teacher"."""
        pairs = [pair for term in self.terms for pair in term.layers.items()]
        return list(dict.fromkeys(student if role == "student" else teacher for student, teacher in pairs))

    def forward(
        self,
        epoch: float,
        labels: Labels,
        z_s: Tensor,
        z_t: Tensor | None,
        student_features: Mapping[str, Tensor],
        teacher_features: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and the unweighted terms; z_s, z_t: `[batch, classes]`."""
        values: dict[str, Tensor] = {}
        total = torch.zeros((), device=z_s.device)
        if self.label_weight:
            values["labels"] = label_loss(z_s, labels)
            total = total + self.label_weight * values["labels"]
        for term in self.terms:
            given: dict[str, Any] = {
                "z_s": z_s,
                "z_t": z_t,
                "labels": labels.hard,
                "f_s": [student_features[path] for path in term.layers],
                "f_t": [teacher_features[path] for path in term.layers.values()],
            }
            values[term.name] = term.method(*(given[name] for name in term.needs))
            total = total + term.weight_at(epoch) * values[term.name]
        return total, values


def label_loss(z_s: Tensor, labels: Labels) -> Tensor:
    """Cross-entropy with (mixed) labels, batch mean."""
    own = cross_entropy(z_s.float(), labels.hard, reduction="none")
    partner = cross_entropy(z_s.float(), labels.partner, reduction="none")
    return (labels.lam * own + (1 - labels.lam) * partner).mean()


def _term(loss: Loss, index: int, losses: Sequence[Loss]) -> Term:
    method = METHODS[loss.method]
    call: Callable[..., Any] = getattr(method, "forward", method)
    positional = [p for p in inspect.signature(call).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    needs = tuple(p.name for p in positional if p.name != "self")
    if "f_t" in needs and not loss.layers:
        raise RecipeError(
            f"distill.losses.{index}: method '{loss.method}' compares features; say which, for example "
            'layers = { "layer3" = "layer3" } (student module path = teacher module path)'
        )
    if "f_t" not in needs and loss.layers:
        raise RecipeError(f"distill.losses.{index}: method '{loss.method}' reads logits only, so it takes no layers")
    same = [other.method for other in losses].count(loss.method) > 1
    bound: Any = method(**loss.options) if inspect.isclass(method) else partial(method, **loss.options)
    return Term(
        f"{loss.method}_{index}" if same else loss.method,
        bound,
        needs,
        loss.weight,
        loss.warmup_epochs,
        dict(loss.layers),
    )
