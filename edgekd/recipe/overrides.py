"""Overrides: `--set key=value` writes a value into a recipe's document before it is checked."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

from edgekd.base.toml_file import Loc, Mistake, dotted, shown

PATH_KEYS: tuple[Loc, ...] = (
    ("data", "train"),
    ("data", "test"),
    ("data", "augment", "noise"),
    ("teacher", "weights"),
    ("teacher", "classes"),
    ("student", "weights"),
)
MODEL_KEYS: tuple[Loc, ...] = (("teacher", "model"), ("student", "model"))
SUFFIXES = (".pt", ".pth", ".pt2", ".onnx", ".safetensors", ".bin", ".ckpt", ".py")  # mark a path that names no folder


def apply(overrides: Sequence[str], document: dict[str, Any]) -> tuple[tuple[Loc, ...], list[Mistake]]:
    """Write the overrides into the document. Returns their keys, and a mistake for each that cannot be written."""
    if isinstance(overrides, str):  # a string is a sequence of letters
        return (), [Mistake("overrides", f"{overrides!r} given; give a list of them: [{overrides!r}]")]
    overridden: list[Loc] = []
    mistakes: list[Mistake] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        try:
            if not equals:
                raise ValueError(f"{override!r} given; write key=value, as in distill.epochs=5")
            overridden.append(_write(document, _split(key.strip()), _value(value)))
        except ValueError as error:
            mistakes.append(Mistake(f"--set {key}", str(error)))
    return tuple(overridden), mistakes


def _split(key: str) -> list[str]:
    """The steps of a dotted TOML key. A step that contains a dot is quoted: layers."block.0"."""
    try:
        rest: Any = tomllib.loads(f"{key} = 0") if key.count(".") < 50 else None
        if not isinstance(rest, dict) or len(rest) != 1:
            raise ValueError(key)
    except ValueError:
        raise ValueError(f"{key!r} given; a key is written as in distill.losses.0.weight") from None
    steps = []
    while isinstance(rest, dict):
        step = next(iter(rest))
        steps.append(step)
        rest = rest[step]
    return steps


def _value(text: str) -> object:
    """The value of a TOML text, or the text itself if it is not TOML: `--set quantize.mode=qat` needs no quotes."""
    try:
        content = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise ValueError("the value is nested too deep") from None
    except ValueError:  # no TOML, or a number of more than 4300 digits
        return text
    value = content["value"]
    return text if len(content) > 1 or isinstance(value, date | datetime | time) else value


def _write(document: dict[str, Any], steps: list[str], value: object) -> Loc:
    """Set a value and return its place. Raises ValueError if the document cannot have that place."""
    loc: Loc = ()
    container: Any = document
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(container, list):
            if not (step.isdecimal() and int(step) < len(container)):
                raise ValueError(f"no entry {step}; {dotted(loc)} has {len(container)}, counted from 0")
            loc += (int(step),)
        elif isinstance(container, dict):
            loc += (step,)
            if following is not None and step not in container:
                if following.isdecimal():
                    raise ValueError(f"the file states no {dotted(loc)}; set all of it: --set '{dotted(loc)}=[...]'")
                container[step] = {}
        else:
            raise ValueError(f"{dotted(loc)} is {shown(container)}, not a table")
        if following is None:
            container[loc[-1]] = _from_here(loc, value)
        else:
            container = container[loc[-1]]
    return loc


def _from_here(loc: Loc, value: object) -> object:
    """The value with relative paths made absolute.

    On the command line a relative path starts at the current directory, not at the recipe.
    """
    if not isinstance(value, str):
        return value
    scheme, colon, rest = value.partition(":")
    if loc in PATH_KEYS and scheme not in ("python", "synthetic"):
        always = loc[0] == "data" or loc[-1] == "classes"  # weights may be a name that the model's library knows
        return _absolute(value) if always or _looks_like_a_path(value) else value
    if loc in MODEL_KEYS and colon and scheme in ("onnx", "exported"):
        return f"{scheme}:{_absolute(rest)}"
    if loc in (*MODEL_KEYS, *PATH_KEYS) and colon and scheme == "python":
        module, function_colon, function = rest.rpartition(":")
        return f"python:{_absolute(module)}{function_colon}{function}" if _looks_like_a_path(module) else value
    return value


def _looks_like_a_path(text: str) -> bool:
    return text.startswith(("~", ".")) or "/" in text or os.path.splitext(text)[1] in SUFFIXES or os.path.exists(text)


def _absolute(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text)) if text else text
