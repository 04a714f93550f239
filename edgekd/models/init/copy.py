"""`copy_layers` copies whole layers of the teacher into the student; `every_nth` chooses them (DistilBERT)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgekd.errors import ModelError, nearest


def copy_layers(student: nn.Module, teacher: nn.Module, layers: Mapping[str, str]) -> list[str]:
    """Copy parameters and buffers of the teacher's modules into the student's, and return the names that were filled.

    layers: student module path -> teacher module path. Raises ModelError for a path that does not exist, with the nearest
    paths, and for two modules whose entries or shapes differ. After an error nothing has been copied.
    """
    copies: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for ours, theirs in layers.items():
        target = _module(student, ours, "student").state_dict()
        source = _module(teacher, theirs, "teacher").state_dict()
        problems = [f"the student's has no {name}" for name in source if name not in target]
        problems += [f"the teacher's has no {name}" for name in target if name not in source]
        problems += [
            f"{name} is {list(target[name].shape)} in the student, {list(source[name].shape)} in the teacher"
            for name in target
            if name in source and target[name].shape != source[name].shape
        ]
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise ModelError(
                f"layer '{theirs}' of the teacher does not fit '{ours}' of the student: {'; '.join(problems[:3])}{more}"
            )
        copies |= {f"{ours}.{name}" if ours else name: (target[name], source[name]) for name in target}
    with torch.no_grad():
        for destination, value in copies.values():
            destination.copy_(value)
    return list(copies)


def every_nth(student: nn.Module, teacher: nn.Module) -> dict[str, str]:
    """Pairs for `copy_layers`: each repeated layer of the student with a layer of the teacher, evenly spaced.

    Repeated layers are the children, all of one class, of a Sequential or ModuleList that has the same path in both models.
    The first and the last layer are kept: 6 of 12 are [0, 2, 4, 7, 9, 11], as in DistilBERT (Sanh et al. 2019,
    1910.01108). A single layer is the first. Raises ModelError if the student repeats no layer, or if the teacher lacks
    that container or has fewer layers in it.
    """
    possible = _repeated(teacher)
    pairs: dict[str, str] = {}
    for path, children in _repeated(student).items():
        if path not in possible:
            raise ModelError(
                f"the student repeats layers in '{path}', the teacher has none there{nearest(path, possible)}"
            )
        n, available = len(children), possible[path]
        if n > len(available):
            raise ModelError(f"'{path}' has {n} layers in the student, only {len(available)} in the teacher")
        for i, child in enumerate(children):
            j = int(i * (len(available) - 1) / (n - 1) + 0.5) if n > 1 else 0
            pairs[child] = available[j]
    if not pairs:
        raise ModelError("the student has no repeated layers: no Sequential or ModuleList with children of one class")
    return pairs


def _module(model: nn.Module, path: str, role: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if path not in modules:
        raise ModelError(f"the {role} has no layer '{path}'{nearest(path, [name for name in modules if name])}")
    return modules[path]


def _repeated(model: nn.Module) -> dict[str, list[str]]:
    """The outermost containers of repeated layers with weights -> the paths of these layers."""
    found: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        inner = any(path.startswith(f"{outer}.") or not outer for outer in found)
        if inner or not isinstance(module, nn.Sequential | nn.ModuleList) or next(module.parameters(), None) is None:
            continue
        if len({type(child) for child in module}) == 1:
            found[path] = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
    return found
