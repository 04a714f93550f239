"""read_weights: the tensors of a weights file, read without running anything of it, and the form that was found.

    FILE.safetensors         tensors by name
    FILE.pt, .pth, .ckpt     a state dict, or a checkpoint that holds one as `state_dict`, `model_state_dict` or `model`

Names may begin with what a wrapper put before them: `module.` (DataParallel), `model.` (a Lightning module's network) or
`_orig_mod.` (torch.compile). `without_prefix` takes it away. A pickled module and a TorchScript file are refused, because
loading them runs their code.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from edgekd.errors import ModelError

HOLDERS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # keys under which a checkpoint holds its network, the first first
WRAPPERS = ("", "module.", "model.", "_orig_mod.")
PREFIXES = tuple(dict.fromkeys(outer + inner for outer, inner in product(WRAPPERS, repeat=2)))
MOST = 1 << 26  # bytes of a pickle that is looked through for a message


@dataclass(frozen=True)
class WeightFile:
    """Tensors by name, and the form of their file in words; empty for tensors alone."""

    tensors: Mapping[str, Tensor]
    form: str = ""


def read_weights(path: Path) -> WeightFile:
    """The tensors of a .safetensors file or of a file that torch.save wrote, on the CPU. Raises ModelError for others."""
    if path.suffix == ".safetensors":
        try:
            return WeightFile(safetensors.torch.load_file(path))
        except Exception as error:  # on a damaged file its reader raises several kinds of errors
            raise _unreadable(path, error) from error
    records = _records(path)
    if any("/code/" in name for name in records) and any(name.endswith("/constants.pkl") for name in records):
        raise ModelError(_is_torchscript(path))
    if "models/model.json" in {name.partition("/")[2] for name in records}:
        raise ModelError(
            f"{path} is a torch.export program, no weights: write model = 'exported:{path.name}' for a teacher"
        )
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(_is_pickled(path)) from error
    except Exception as error:  # on a damaged file torch's unpickler raises many kinds of errors, as KeyError
        raise _unreadable(path, error) from error
    return _state_of(loaded, path)


def without_prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """The weights under the names of a model, whose tensors are `own`, and what was done in words; empty if nothing.

    Of the prefixes that wrappers write, that is taken under which the most names of the model stand in the file. Tensors
    without it, as those of a loss, are left out.
    """
    found = {prefix: sum(prefix + name in weights for name in own) for prefix in PREFIXES}
    best = max(PREFIXES, key=lambda prefix: found[prefix])  # on a tie the shorter one, which stands first
    if not best or not found[best]:
        return weights, ""
    inside = {name.removeprefix(best): value for name, value in weights.items() if name.startswith(best)}
    left = len(weights) - len(inside)
    return inside, f"names without '{best}'" + (f" ({left} tensors without it are not read)" if left else "")


def _state_of(loaded: Any, path: Path) -> WeightFile:
    """The state dict that torch.load gave, or that of a checkpoint."""
    holder = next(
        (key for key in HOLDERS if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)), None
    )
    state = loaded if holder is None else loaded[holder]
    tensors = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    if not tensors or not state:
        what = f"a {type(loaded).__name__}"
        if isinstance(loaded, Mapping):
            what += f" of {', '.join(map(str, list(loaded)[:10])) or 'nothing'}"
        raise ModelError(
            f"{path} holds {what}, not a state dict (names to tensors); a checkpoint holds one as {', '.join(HOLDERS)}. Save the state "
            "dict alone: torch.save(model.state_dict(), 'weights.pt')"
        )
    return WeightFile(state, "" if holder is None else f"the '{holder}' of a checkpoint")


def _records(path: Path) -> list[str]:
    """The names of the records of a zip archive, as torch.save writes it; empty for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return []


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return ModelError(f"{path} cannot be read as weights ({reason}); give .safetensors, or a .pt of tensors")


def _is_torchscript(path: Path) -> str:
    return (
        f"{path} is a TorchScript program: loading it runs its code, so it is refused. In a program that trusts it, write its "
        f"weights: torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pt'); or, as a teacher, its graph: "
        f"torch.onnx.export(torch.jit.load('{path.name}').eval(), (x,), 'teacher.onnx', dynamo=False, input_names=['x'], "
        "dynamic_axes={'x': {0: 'batch'}}) with x = torch.zeros(1, ...) of one sample's size"
    )


def _is_pickled(path: Path) -> str:
    """The refusal of a pickle with more than tensors, and what to run in a program that trusts the file."""
    whole, name = _first_object(path)
    trusted = f"torch.load('{path.name}', weights_only=False)"
    if whole:
        what, rest = f"a whole pickled object ({name})", f"{trusted}.state_dict()"
    else:
        what, rest = f"a pickle with more than tensors{f' ({name})' if name else ''}", f"{trusted}['state_dict']"
    return (
        f"{path} is {what}: loading it could run any code, so it is refused. In a program that trusts it, write the state dict "
        f"alone: torch.save({rest}, 'weights.pt'), or with safetensors.torch.save_file"
    )


def _first_object(path: Path) -> tuple[bool, str]:
    """Whether a pickle is one object as a whole, and the name of its first class or function that is not torch's.

    The pickle is listed, and nothing of it runs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            if archive.getinfo(record).file_size > MOST:
                return False, ""
            steps = list(_named(archive.read(record)))
    except (OSError, ValueError, KeyError, StopIteration, zipfile.BadZipFile):
        return False, ""
    foreign = [(at, name) for at, name in steps if not name.startswith(("torch", "collections.OrderedDict"))]
    whole = [(at, name) for at, name in steps if at == 0 and (name.startswith("torch.nn.") or (at, name) in foreign)]
    return (bool(whole), (whole or foreign or [(0, "")])[0][1])


def _named(data: bytes) -> Iterator[tuple[int, str]]:
    """The classes and functions of a pickle, each with its number among the steps that make a value."""
    at = 0
    for operation, argument, _ in pickletools.genops(data):
        if operation.name == "GLOBAL":
            yield at, str(argument).replace(" ", ".")
        at += operation.name not in ("PROTO", "FRAME")
