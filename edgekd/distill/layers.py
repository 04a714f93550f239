"""`layers = "auto"`: pairs layers of the student with layers of the teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill.own import method_of
from edgekd.errors import ModelError
from edgekd.recipe.losses import Loss

WHICH = {"all": slice(None), "before_last": slice(-2, -1)}
BEFORE_RELU = (
    "what a layer gives before its ReLU (its BatchNorm's output), while the last layer of a stage stands behind it"
)
Stage = tuple[str, tuple[int, ...]]  # module path and the shape of its output


def pair_layers(
    losses: Sequence[Loss], student: nn.Module, teacher: nn.Module | None, arguments: tuple[Tensor, ...]
) -> tuple[Loss, ...]:
    """The losses with each `layers = "auto"` replaced by a pairing.

    Layers whose output maps have the same height and width form a stage; the last layer represents the stage. A stage of
    the student is paired with the teacher's stage of the same resolution, or else of the same relative depth. A method
    with `auto="last"` takes the deepest stage of both; with "before_last" the stage before the deepest. A method that
    reads only the student takes the student's layers of these pairs. Raises ModelError if no layer of a network puts out
    a map, and for a method with `auto="refused"`.
    """
    if not any(loss.layers == "auto" for loss in losses):
        return tuple(losses)
    if all(argument.ndim != 4 for argument in arguments):
        raise ModelError(
            'layers = "auto" pairs feature maps [batch, channels, h, w], and the student reads none; write layers = { student path = '
            "teacher path }"
        )
    for loss in losses:
        if loss.layers == "auto" and method_of(loss.method).auto == "refused":
            raise ModelError(
                f"{loss.method} compares {BEFORE_RELU}; name them: layers = {{ student path = teacher path }}"
            )
    ours = stages(student, arguments, "student")
    compared = any(loss.layers == "auto" and "f_t" in method_of(loss.method).needs for loss in losses)
    theirs = stages(teacher, arguments, "teacher") if compared and teacher is not None else ours
    pairs = paired(ours, theirs)

    def resolved(loss: Loss) -> Loss:
        if loss.layers != "auto":
            return loss
        method = method_of(loss.method)
        which = method.auto
        chosen = [(ours[-1][0], theirs[-1][0])] if which == "last" else list(pairs.items())[WHICH[which]]
        if not chosen:
            raise ModelError(
                f'{loss.method} with layers = "auto" reads the stage before the last, and the student has {len(pairs)}; name a layer'
            )
        layers = dict(chosen) if "f_t" in method.needs else tuple(path for path, _ in chosen)
        return loss.model_copy(update={"layers": layers})

    return tuple(resolved(loss) for loss in losses)


def paired(ours: Sequence[Stage], theirs: Sequence[Stage]) -> dict[str, str]:
    """The pairs of stages: student's path -> teacher's path, shallow to deep."""
    by_resolution = {shape[2:]: path for path, shape in theirs}
    pairs = {}
    for i, (path, shape) in enumerate(ours):
        same_depth = theirs[round(i * (len(theirs) - 1) / max(1, len(ours) - 1))][0]
        pairs[path] = by_resolution.get(shape[2:], same_depth)
    return pairs


def stages(model: nn.Module, arguments: tuple[Tensor, ...], role: str) -> list[Stage]:
    """The last module of each resolution, in the order of execution.

    Maps of a single position are left out. So are modules that are called more than once in a pass, because their output
    is not a single feature.
    """
    called: list[Stage] = []
    times: Counter[str] = Counter()
    handles = []

    def keep(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            times[path] += 1
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                called.append((path, tuple(output.shape)))

        return hook

    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_hook(keep(path)))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(*arguments)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    last = {shape[2:]: (path, shape) for path, shape in called if times[path] == 1}
    if not last:
        raise ModelError(
            f'the {role} has no module that puts out a feature map [batch, channels, h, w], so layers = "auto" finds no pair; '
            "write layers = { student path = teacher path }"
        )
    return list(last.values())
