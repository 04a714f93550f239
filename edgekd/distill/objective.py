"""Objective: the sum of the label term and the recipe's losses, with each term by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.base import processes
from edgekd.base.draws import Ids
from edgekd.distill.features import as_tokens
from edgekd.distill.methods import METHODS, Method
from edgekd.distill.own import method_of, own_method, place_of, value_of_own
from edgekd.errors import ModelError, RecipeError
from edgekd.recipe.losses import Layout, Loss, check_losses, is_own, reads_teacher, title_of
from edgekd.tasks.protocol import Labels
from edgekd.tasks.rows import Rows

LabelLoss = Callable[[Tensor, Labels], Tensor]


@dataclass(frozen=True)
class Numbered:
    """The samples of a batch in a view. ids: their numbers in the split; numbers: among the training samples, a tensor."""

    ids: Ids
    numbers: Tensor
    view: int


@dataclass(frozen=True)
class ForwardPass:
    """A pass of student and teachers over a batch, as losses read it; edgekd.distill.methods explains the names.

    outputs, targets: what the label loss reads, for all of each sample; labels: those of the rows. z_ts: `[teachers, rows,
    classes]`, None if no loss reads a teacher. m_s, m_ts, mask: maps of a dense task, None for others. f_s, f_t: features by
    module path.
    """

    arguments: tuple[Tensor, ...]
    rows: Tensor
    outputs: Tensor
    targets: Labels
    labels: Tensor
    z_s: Tensor
    z_ts: Tensor | None
    m_s: Tensor | None
    m_ts: Tensor | None
    mask: Tensor | None
    f_s: Mapping[str, Tensor]
    f_t: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        rows: Rows,
        batch: Numbered,
        arguments: tuple[Tensor, ...],
        targets: Labels,
        outputs: Tensor,
        kept_ts: Tensor | None,
        f_s: Mapping[str, Tensor],
        f_t: Mapping[str, Tensor],
    ) -> ForwardPass:
        """The pass as losses read it. outputs: the student's, `[batch, outputs, ...]`; kept_ts: what is kept of each teacher's."""
        kept, labels = (
            rows.kept(outputs, batch.ids, batch.view),
            rows.targets(targets.hard, batch.ids, batch.view),
        )
        chosen = rows.chosen(labels)
        z_ts = None if kept_ts is None else torch.stack([each[chosen] for each in kept_ts])
        is_map = isinstance(chosen, Tensor)  # picks some pixels of a map
        return cls(
            arguments, batch.numbers, outputs, targets, labels[chosen], kept[chosen], z_ts,
            m_s=kept.permute(0, 3, 1, 2) if is_map else None,
            m_ts=kept_ts.permute(0, 1, 4, 2, 3) if is_map and kept_ts is not None else None,
            mask=torch.where(chosen, labels.long(), -1) if is_map else None,
            f_s=f_s, f_t=f_t,
        )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse logits that do not have two axes: on pixels or tokens each method would compute a wrong number."""
        teachers = [] if self.z_ts is None else list(self.z_ts)
        for role, z in (("student", self.z_s), *(("teacher", z) for z in teachers)):
            if z.ndim != 2:
                raise ModelError(f"the {role}'s logits are {list(z.shape)}; the losses read [rows, classes]")


@dataclass(frozen=True)
class Term:
    """A loss of the recipe, ready to be called. `method` holds its options; `declared` is the method's record."""

    name: str
    method: Callable[..., Any]
    declared: Method
    weight: float
    warmup_epochs: float
    until_epoch: float | None
    student_layers: tuple[str, ...]
    teacher_layers: tuple[str, ...]
    layout: Layout | None = None
    is_own: bool = False

    def weight_at(self, epoch: float) -> float:
        """The weight at `epoch`, which counts steps as fractions.

        The weight rises linearly over the warm-up and is 0 from `until_epoch` on.
        """
        if self.until_epoch is not None and epoch >= self.until_epoch:
            return 0.0
        return self.weight * min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else self.weight

    def __call__(self, forward: ForwardPass, epoch: float) -> Tensor:
        """The unweighted loss. A method that reads one teacher is averaged over all teachers."""
        needs = self.declared.needs
        # Features come from the first teacher, so logits that go with features must come from that teacher too.
        one_of_several = {"z_t", "m_t"} & set(needs) and "f_t" not in needs
        several = one_of_several and forward.z_ts is not None and len(forward.z_ts) > 1
        if several:
            assert forward.z_ts is not None
            values = [
                self._value({name: self.argument(name, forward, epoch, k) for name in needs})
                for k in range(len(forward.z_ts))
            ]
            return torch.stack(values).mean()
        return self._value({name: self.argument(name, forward, epoch) for name in needs})

    def _value(self, given: Mapping[str, Any]) -> Tensor:
        if self.is_own:
            return value_of_own(self.name, self.declared.call, self.method, given)
        value: Tensor = self.method(*given.values())
        return value

    def argument(self, name: str, forward: ForwardPass, epoch: float, teacher: int = 0) -> Any:
        """The positional argument `name` for the term's method."""
        match name:
            case "z_t":
                return None if forward.z_ts is None else forward.z_ts[teacher]
            case "labels":
                return forward.labels
            case "m_t":
                return None if forward.m_ts is None else forward.m_ts[teacher]
            case "f_s":
                return [as_tokens(forward.f_s[path], self.layout, path, self.name) for path in self.student_layers]
            case "f_t":
                return [as_tokens(forward.f_t[path], self.layout, path, self.name) for path in self.teacher_layers]
            case "epoch":
                return epoch
            case _:
                return getattr(forward, name)


class TaskObjective(nn.Module):
    """The objective of a task: `total = label_weight · label_loss + Σ weight · method(...)`, and each term by name.

    label_loss: the task's loss of logits and labels; without one nothing is learnt from labels. Methods with weights are
    children of this module, so that the trainer finds their parameters here. Raises RecipeError for losses that do not fit
    their methods.
    """

    def __init__(self, losses: Sequence[Loss], label_weight: float, label_loss: LabelLoss | None = None) -> None:
        super().__init__()
        self.label_weight, self.label_loss = label_weight, label_loss
        losses = [loss for loss in losses if loss.weight]
        if mistakes := check_losses(losses, METHODS, own_method):
            raise RecipeError("; ".join(mistakes))
        self.terms = [_term(loss, i, losses) for i, loss in enumerate(losses)]
        self.methods = nn.ModuleDict(
            {term.name: term.method for term in self.terms if isinstance(term.method, nn.Module)}
        )

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss reads a teacher's logits or features."""
        return any(reads_teacher(term.declared) for term in self.terms)

    @property
    def needs_features(self) -> bool:
        """Whether any loss reads the teacher's features."""
        return any("f_t" in term.declared.needs for term in self.terms)

    @property
    def pooled_features(self) -> dict[str, Layout | None]:
        """The teacher's layers with their layouts, if pooled features are enough for every loss; else empty.

        Pooled features can be cached. Raises RecipeError if two losses give a layer different layouts.
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
        """Whether any loss needs batches of pairs of the same class."""
        return any(term.declared.pairs for term in self.terms)

    @property
    def in_one_process(self) -> list[str]:
        """The names of the terms whose method only works in a single process."""
        return [term.name for term in self.terms if term.declared.in_one_process]

    def layers_of(self, role: str) -> list[str]:
        """The paths of the modules that the methods read. role: "student" or "teacher"."""
        paths = [path for term in self.terms for path in getattr(term, f"{role}_layers")]
        return list(dict.fromkeys(paths))

    def prepare(
        self, forward: ForwardPass, student: nn.Module, teacher: nn.Module | None, classes: int, samples: int
    ) -> None:
        """Let methods make their weights from a batch and the models, before the optimizer is made."""
        for term in self.terms:
            self.prepare_one(term, forward, student, teacher, classes, samples)

    @staticmethod
    def prepare_one(
        term: Term, forward: ForwardPass, student: nn.Module, teacher: nn.Module | None, classes: int, samples: int
    ) -> None:
        """Call a term's `prepare`, if its method has one."""
        prepare, names = term.declared.prepare, term.declared.prepare_needs
        if prepare is None:
            return
        about: dict[str, Any] = {
            "student": student, "teacher": teacher, "classes": classes, "samples": samples, "paths": list(term.student_layers),
        }  # fmt: skip
        given = {name: about[name] if name in about else term.argument(name, forward, 0.0) for name in names}
        prepare(term.method, **given)

    def deployed(self, student: nn.Module) -> nn.Module:
        """The model that ships: the student, or the model that a method makes of the student (`simkd`)."""
        for term in self.terms:
            if term.declared.deployed is not None:
                return term.declared.deployed(term.method, student, term.student_layers[0])
        return student

    def forward(self, epoch: float, forward: ForwardPass) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and the unweighted terms by name. A term is not computed after its `until_epoch`."""
        values: dict[str, Tensor] = {}
        total = torch.zeros((), device=forward.z_s.device)
        if self.label_weight and self.label_loss is not None:
            values["labels"] = self.label_loss(forward.outputs, forward.targets)
            total = total + self.label_weight * values["labels"]
        for term in self.terms:
            if term.until_epoch is None or epoch < term.until_epoch:
                values[term.name] = term(forward, epoch)
                total = total + term.weight_at(epoch) * values[term.name]
        if processes.SIZE > 1:  # processes wait for the gradient of every parameter, also of unused ones
            idle = [p.sum() for term in self.terms if term.name not in values for p in _parameters(term.method)]
            total = total + 0.0 * sum(idle, forward.z_s.float().sum())
        return total, values


class Objective(nn.Module):
    """The objective of a student: `total = Σ weight · task's total`. Each task has the same losses on its own logits.

    weights, label_losses: by the task's name. The name of a named task starts the names of its terms, as in `parity/kd`.
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
        """The objective of each task, by task name."""
        return {
            name: task for name, task in zip(self.weights, self.tasks, strict=True) if isinstance(task, TaskObjective)
        }

    @property
    def common(self) -> TaskObjective:
        """The first task's objective, for facts that all tasks share: methods, their needs, the layers they read."""
        return next(iter(self.members.values()))

    @property
    def own_places(self) -> dict[str, str]:
        """The file and line of each term that is the user's own, by the term's name."""
        return {
            f"{name}/{term.name}" if name else term.name: place_of(term.declared.call)
            for name, task in self.members.items()
            for term in task.terms
            if term.is_own
        }

    def forward(self, epoch: float, passes: Mapping[str, ForwardPass]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and the unweighted terms of all tasks. passes: the forward pass of each task, by task name."""
        values: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        for name, task in self.members.items():
            its_total, its_values = task(epoch, passes[name])
            values |= {f"{name}/{term}" if name else term: value for term, value in its_values.items()}
            total = total + self.weights[name] * its_total
        assert isinstance(total, Tensor)
        return total, values


def _term(loss: Loss, index: int, losses: Sequence[Loss]) -> Term:
    declared, title = method_of(loss.method), title_of(loss.method)
    if loss.layers == "auto":
        raise RecipeError(f"distill.losses.{index}: pair the layers first (edgekd.distill.layers)")
    same = [title_of(other.method) for other in losses].count(title) > 1
    call = declared.call
    bound: Any = call(**loss.options) if inspect.isclass(call) else partial(call, **loss.options)
    pairs = loss.layers
    return Term(
        f"{title}_{index}" if same else title,
        bound,
        declared,
        loss.weight,
        loss.warmup_epochs,
        loss.until_epoch,
        tuple(pairs),
        tuple(pairs.values()) if isinstance(pairs, dict) else (),
        loss.layout,
        is_own(loss.method),
    )


def _parameters(method: Callable[..., Any]) -> list[Tensor]:
    return list(method.parameters()) if isinstance(method, nn.Module) else []
