"""The objective: the label term and the recipe's losses, added up and named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.base import processes
from edgekd.distill.features import as_tokens
from edgekd.distill.methods import METHODS, Method
from edgekd.errors import ModelError, RecipeError
from edgekd.recipe.losses import Layout, Loss, check_losses, reads_teacher
from edgekd.tasks.protocol import Labels

LabelLoss = Callable[[Tensor, Labels], Tensor]


@dataclass(frozen=True)
class ForwardPass:
    """One pass of student and teachers over a batch, as losses read it; edgekd.distill.methods explains the names.

    z_ts: `[teachers, batch, classes]`, None where no loss reads a teacher; f_s, f_t: features by module path.
    """

    inputs: tuple[Tensor, ...]
    rows: Tensor
    labels: Labels
    z_s: Tensor
    z_ts: Tensor | None
    f_s: Mapping[str, Tensor]
    f_t: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        """Methods soften over the last of two axes: of pixels or tokens as they are each would compute another number."""
        teachers = [] if self.z_ts is None else list(self.z_ts)
        for role, z in (("student", self.z_s), *(("teacher", z) for z in teachers)):
            if z.ndim != 2:
                raise ModelError(f"the {role}'s logits are {list(z.shape)}; the losses read [rows, classes]")


@dataclass(frozen=True)
class Term:
    """A term is one loss of the recipe, ready to be called: `method` holds its options, `declared` is its record."""

    name: str
    method: Callable[..., Any]
    declared: Method
    weight: float
    warmup_epochs: float
    until_epoch: float | None
    student_layers: tuple[str, ...]
    teacher_layers: tuple[str, ...]
    layout: Layout | None = None

    def weight_at(self, epoch: float) -> float:
        """The weight, rising linearly over the warm-up, 0 from `until_epoch`; `epoch` counts steps as fractions."""
        if self.until_epoch is not None and epoch >= self.until_epoch:
            return 0.0
        return self.weight * min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else self.weight

    def __call__(self, forward: ForwardPass, epoch: float) -> Tensor:
        """The loss, unweighted. With several teachers a method that reads one is averaged over them."""
        needs = self.declared.needs
        # Features are the first teacher's, and so must be the logits beside them.
        one_of_several = "z_t" in needs and "f_t" not in needs
        several = one_of_several and forward.z_ts is not None and len(forward.z_ts) > 1
        if several:
            assert forward.z_ts is not None
            values = [
                self.method(*(self.argument(name, forward, epoch, k) for name in needs))
                for k in range(len(forward.z_ts))
            ]
            return torch.stack(values).mean()
        value: Tensor = self.method(*(self.argument(name, forward, epoch) for name in needs))
        return value

    def argument(self, name: str, forward: ForwardPass, epoch: float, teacher: int = 0) -> Any:
        """The positional argument of this name."""
        match name:
            case "z_t":
                return None if forward.z_ts is None else forward.z_ts[teacher]
            case "labels":
                return forward.labels.hard
            case "f_s":
                return [as_tokens(forward.f_s[path], self.layout, path, self.name) for path in self.student_layers]
            case "f_t":
                return [as_tokens(forward.f_t[path], self.layout, path, self.name) for path in self.teacher_layers]
            case "epoch":
                return epoch
            case _:
                return getattr(forward, name)


class TaskObjective(nn.Module):
    """`total = label_weight · label_loss + Σ weight · method(...)` of one task, and each term by name.

    label_loss: the task's, of logits and labels; without one nothing is learnt from labels.
    Methods with weights are its children, so that its parameters are those the trainer optimises beside the student's.
    Raises RecipeError for losses that do not fit their methods.
    """

    def __init__(self, losses: Sequence[Loss], label_weight: float, label_loss: LabelLoss | None = None) -> None:
        super().__init__()
        self.label_weight, self.label_loss = label_weight, label_loss
        losses = [loss for loss in losses if loss.weight]
        if mistakes := check_losses(losses, METHODS):
            raise RecipeError("; ".join(mistakes))
        self.terms = [_term(loss, i, losses) for i, loss in enumerate(losses)]
        self.methods = nn.ModuleDict(
            {term.name: term.method for term in self.terms if isinstance(term.method, nn.Module)}
        )

    @property
    def needs_teacher(self) -> bool:
        """Some loss reads a teacher, its logits or its features."""
        return any(reads_teacher(term.declared) for term in self.terms)

    @property
    def needs_features(self) -> bool:
        """Some loss reads the teacher's features."""
        return any("f_t" in term.declared.needs for term in self.terms)

    @property
    def pooled_features(self) -> dict[str, Layout | None]:
        """The teacher's layers with their layouts, where every loss that reads features is content with pooled ones.

        These can be cached. Raises RecipeError where two losses give one layer two layouts.
        """
        readers = [term for term in self.terms if "f_t" in term.declared.needs]
        layouts: dict[str, Layout | None] = {}
        for term in readers:
            for path in term.teacher_layers:
                known = layouts.get(path)
                if known and term.layout and known != term.layout:
                    raise RecipeError(
                        f"the teacher's layer '{path}' is called {known} by one loss and {term.layout} by {term.name}; "
                        "give both one layout"
                    )
                layouts[path] = known or term.layout
        all_pooled = all(term.declared.pooled for term in readers)
        return layouts if all_pooled else {}

    @property
    def needs_pairs(self) -> bool:
        """Some loss wants a sample of the same class for each of half of the batch."""
        return any(term.declared.pairs for term in self.terms)

    @property
    def in_one_process(self) -> list[str]:
        """The methods that several processes cannot share."""
        return [term.name for term in self.terms if term.declared.in_one_process]

    def layers_of(self, role: str) -> list[str]:
        """The module paths whose outputs the methods read; `role` is "student" or "teacher"."""
        paths = [path for term in self.terms for path in getattr(term, f"{role}_layers")]
        return list(dict.fromkeys(paths))

    def prepare(
        self, forward: ForwardPass, student: nn.Module, teacher: nn.Module | None, classes: int, samples: int
    ) -> None:
        """Let the methods that have weights of their own see one batch and the models, before the optimizer is made."""
        for term in self.terms:
            self.prepare_one(term, forward, student, teacher, classes, samples)

    @staticmethod
    def prepare_one(
        term: Term, forward: ForwardPass, student: nn.Module, teacher: nn.Module | None, classes: int, samples: int
    ) -> None:
        """`prepare` for one term; nothing for a method that has none."""
        prepare, names = term.declared.prepare, term.declared.prepare_needs
        if prepare is None:
            return
        about: dict[str, Any] = {
            "student": student, "teacher": teacher, "classes": classes, "samples": samples, "paths": list(term.student_layers),
        }  # fmt: skip
        given = {name: about[name] if name in about else term.argument(name, forward, 0.0) for name in names}
        prepare(term.method, **given)

    def deployed(self, student: nn.Module) -> nn.Module:
        """What ships: the student, or what a method makes of it (`simkd`)."""
        for term in self.terms:
            if term.declared.deployed is not None:
                return term.declared.deployed(term.method, student, term.student_layers[0])
        return student

    def forward(self, epoch: float, forward: ForwardPass) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and the unweighted terms. A term whose weight is 0 by now is not computed."""
        values: dict[str, Tensor] = {}
        total = torch.zeros((), device=forward.z_s.device)
        if self.label_weight and self.label_loss is not None:
            values["labels"] = self.label_loss(forward.z_s, forward.labels)
            total = total + self.label_weight * values["labels"]
        for term in self.terms:
            if term.until_epoch is None or epoch < term.until_epoch:
                values[term.name] = term(forward, epoch)
                total = total + term.weight_at(epoch) * values[term.name]
        if (
            processes.SIZE > 1
        ):  # processes wait for the gradient of every parameter, also of those that nothing reads now
            idle = [p.sum() for term in self.terms if term.name not in values for p in _parameters(term.method)]
            total = total + 0.0 * sum(idle, forward.z_s.float().sum())
        return total, values


class Objective(nn.Module):
    """`total = Σ weight · task's total` over a student's tasks. Each has the same losses on its own logits.

    weights, label_losses: by the task's name; the terms of a task that has a name begin with it, as `parity/kd`.
    """

    def __init__(
        self,
        losses: Sequence[Loss],
        label_weight: float,
        weights: Mapping[str, float],
        label_losses: Mapping[str, LabelLoss],
    ) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.tasks = nn.ModuleList(TaskObjective(losses, label_weight, label_losses[name]) for name in self.weights)

    @property
    def members(self) -> dict[str, TaskObjective]:
        """The objective of each task, by its name."""
        return {
            name: task for name, task in zip(self.weights, self.tasks, strict=True) if isinstance(task, TaskObjective)
        }

    @property
    def common(self) -> TaskObjective:
        """One of them, for what is the same in all: methods, what they need, the layers that they read."""
        return next(iter(self.members.values()))

    def forward(self, epoch: float, passes: Mapping[str, ForwardPass]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and the unweighted terms of all tasks; `passes`: those of each task, by its name."""
        values: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        for name, task in self.members.items():
            its_total, its_values = task(epoch, passes[name])
            values |= {f"{name}/{term}" if name else term: value for term, value in its_values.items()}
            total = total + self.weights[name] * its_total
        assert isinstance(total, Tensor)
        return total, values


def _term(loss: Loss, index: int, losses: Sequence[Loss]) -> Term:
    declared = METHODS[loss.method]
    if loss.layers == "auto":
        raise RecipeError(f"distill.losses.{index}: pair the layers first (edgekd.distill.layers)")
    same = [other.method for other in losses].count(loss.method) > 1
    call = declared.call
    bound: Any = call(**loss.options) if inspect.isclass(call) else partial(call, **loss.options)
    pairs = loss.layers
    return Term(
        f"{loss.method}_{index}" if same else loss.method,
        bound,
        declared,
        loss.weight,
        loss.warmup_epochs,
        loss.until_epoch,
        tuple(pairs),
        tuple(pairs.values()) if isinstance(pairs, dict) else (),
        loss.layout,
    )


def _parameters(method: Callable[..., Any]) -> list[Tensor]:
    return list(method.parameters()) if isinstance(method, nn.Module) else []
