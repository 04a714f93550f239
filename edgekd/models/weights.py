"""load_weights, begin_with: a file's weights, wholly for a model that is used as it is, in part for one that trains on."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
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


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The state dict of a .safetensors file, or of a .pt file of tensors. Raises ModelError for any other file."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is a pickle that needs more than tensors: loading it could run any code, so it is refused. Save the "
            "state dict alone: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error
    except Exception as error:  # on a damaged file torch's unpickler raises many kinds of errors, as KeyError
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise ModelError(
            f"{path} cannot be read as weights ({reason}); give .safetensors, or a .pt of tensors"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds a {type(loaded).__name__}, not a state dict (names to tensors)")
    return state


def _apart(name: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    if name not in weights:
        return f"{name} (not in the file)"
    return f"{name} ({list(own[name].shape)}, in the file {list(weights[name].shape)})"


def _sized(name: str, value: Tensor) -> str:
    return f"{name} {list(value.shape)}"


def _some(words: Sequence[str], between: str = ", ") -> str:
    return between.join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")
