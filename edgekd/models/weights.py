"""load_weights, begin_with: a file's weights, wholly for a model that is used as it is, in part for one that trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from edgekd.errors import ModelError

SHOWN = 5  # names in a message


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a model. Raises ModelError that names missing and unexpected keys and different shapes."""
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [
        f"{name} is {list(weights[name].shape)}, the model's is {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        raise ModelError(f"{where} does not fit the model: {_some(problems, '; ')}")
    model.load_state_dict(dict(weights))


def begin_with(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> str | None:
    """Copy the weights that have a name and the shape of the model's; the others keep their first values.

    Returns what was taken and what was not, as the rest of a sentence about the model; None if all fit. Counters, such as
    BatchNorm's number of batches, are not counted. Raises ModelError with both sets of names if nothing fits.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    floats = [name for name, value in own.items() if value.is_floating_point()]
    taken, left = [name for name in floats if name in fitting], [name for name in floats if name not in fitting]
    if floats and not taken:
        theirs = _some([_sized(name, value) for name, value in weights.items() if value.is_floating_point()])
        raise ModelError(
            f"nothing of {where} fits the model: the file has {theirs or 'no weights'}; the model has "
            f"{_some([_sized(name, own[name]) for name in floats])}. Give a file of this network, or leave weights out"
        )
    model.load_state_dict(fitting, strict=False)
    unread = [name for name, value in weights.items() if name not in own and value.is_floating_point()]
    if not left and not unread:
        return None
    told = f"begins with {len(taken)} of {len(floats)} tensors of {where}"
    if left:
        told += f"; its own first values keep {_some([_apart(name, own, weights) for name in left])}"
    return told + (f"; the file's {_some(unread)} are not read" if unread else "")


def _apart(name: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    if name not in weights:
        return f"{name} (not in the file)"
    return f"{name} ({list(own[name].shape)}, in the file {list(weights[name].shape)})"


def _sized(name: str, value: Tensor) -> str:
    return f"{name} {list(value.shape)}"


def _some(words: Sequence[str], between: str = ", ") -> str:
    return between.join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")
