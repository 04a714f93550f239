"""Writes docs/targets.md, every key of a target file, from the code that reads target files: python docs/make_targets.py"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edgekd.errors import RecipeError
from edgekd.target import (
    Hardware,
    JetPack,
    Operator,
    Operators,
    Quantization,
    Runtime,
    Target,
    list_targets,
    load_target,
)
from edgekd.target.template import written

TABLES: dict[str, type[BaseModel]] = {
    "At the top": Target, "`[hardware]`": Hardware, "`[runtime]`": Runtime, "`[[jetpack]]`": JetPack,
    "`[quantization]`": Quantization, "`[quantization.operators]`": Operators, "An operator": Operator,
}  # fmt: skip
INTRODUCTIONS = {
    "`[hardware]`": "What the device is. All keys may be left out, and a figure that no source states is left out, never guessed. "
    "Peaks are dense (no sparsity).",
    "`[runtime]`": "What runs the model there.",
    "`[[jetpack]]`": "For a Jetson: the JetPack releases that it runs, each a table. `[runtime]` is that of the first one.",
    "`[quantization]`": "What the runtime computes in int8, and how. It follows from the runtime, not from the board: copy it with "
    "`--like` from a target of the same runtime.",
    "`[quantization.operators]`": "The operators that the target computes in integers; all others stay float. "
    'Each is a table: `conv = { sites = "inputs" }`.',
    "An operator": "The keys of such a table.",
}
HEAD = """\
# Targets: files for your own board

`edgekd targets` lists the devices that edgekd knows, and `edgekd targets NAME` shows one. For any other board write a target file: a TOML
file that `-t` takes in place of a name.

## From a copy to a build

    edgekd targets --write my-board.toml --like raspberry-pi-5    # a commented copy; name and title are those of the file
    edgekd targets my-board.toml                                  # shows it, or all its mistakes, each with its line
    edgekd targets my-board.toml --model model.onnx               # estimates a model's latency by its figures
    edgekd build -t my-board.toml                                 # leaves build/RECIPE/my-board

Begin with the target that has the runtime of your board. The int8 scheme then fits:

| your board runs | begin with |
|---|---|
| onnxruntime on arm64 cores with fp16 arithmetic (Cortex-A55, A76 and later) | `raspberry-pi-5` |
| onnxruntime on arm64 cores without it (Cortex-A53, A72) | `raspberry-pi-4` |
| onnxruntime on x86-64 | `x86-cpu` |
| TensorRT 10 on a Jetson with JetPack 6 or 7 | `jetson-orin-nano` |
| TensorRT 8.5 on a Jetson with JetPack 5 | `jetson-xavier-nx` |
| onnxruntime with QNN on a Qualcomm NPU | `android-arm64` |

Then replace the figures of `[hardware]`, or delete their lines. The copy says `source = "copied from ..."`. Name your own source, or
delete `source` and `date`: `edgekd targets` and the report then tell the figures as `own figures`. The targets that come with edgekd
always have both.

Each key has an effect, or is shown only. If you know only the processor and the runtime, this is enough:

```toml
{smallest}```

A mistake costs nothing: the file is read before anything is built, and all mistakes are told at once.

{mistakes}

edgekd writes ONNX for TensorRT, onnxruntime and QNN. An NPU that takes another format (RKNN, Ethos-U, Hailo) is not covered; its board
can still run the model on its CPU.

The keys below are those of the code. The default is what holds if a file leaves the key out.

<!-- Written by docs/make_targets.py. -->
"""
SMALLEST = """\
name = "my-board"
title = "My board"

[hardware]
cpu = "4x Cortex-A55"

[runtime]
name = "onnxruntime"
precisions = ["fp32"]
default_opset = 20
max_opset = 23
"""


def mistakes() -> str:
    """What a user reads whose copy of SMALLEST has two mistakes; long lists of keys are cut."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "my-board.toml"
        file.write_text(SMALLEST.replace("cpu =", "cpuu =").replace('"fp32"', '"fp23"'))
        try:
            load_target(str(file))
        except RecipeError as error:
            told = str(error).replace(str(file), file.name)
            return re.sub(r"(have: (?:\w+, ){3})(?:\w+, ){5,}\w+\.", r"\1... .", told)
    raise AssertionError("a file with mistakes was read")


def reference() -> str:
    """The page."""
    parts = [HEAD.format(smallest=SMALLEST, mistakes=indent(mistakes(), "    "))]
    for title, table in TABLES.items():
        introduction = f"{INTRODUCTIONS[title]}\n\n" if title in INTRODUCTIONS else ""
        head = "| key | value | default | meaning and effect |\n|---|---|---|---|"
        parts.append(f"## {title}\n\n{introduction}{head}\n" + "\n".join(rows(table)) + "\n")
    sites = inspect.cleandoc(Operator.__doc__ or "").partition("\n\n")[2]
    parts.append("The values of `sites`:\n\n" + "\n".join(f"    {line}" for line in sites.split("\n")) + "\n")
    names = "\n".join(f"| `{target.name}` | {_also(target)} | {target.title} |" for target in list_targets())
    parts.append(
        f"## The names of the targets\n\nIn any case of letters.\n\n| name | also | device |\n|---|---|---|\n{names}\n"
    )
    return "\n".join(parts)


def _also(target: Target) -> str:
    return ", ".join(f"`{alias}`" for alias in target.aliases)


def rows(table: type[BaseModel]) -> Iterator[str]:
    for key, field in table.model_fields.items():
        value = field.get_default(call_default_factory=True, validated_data={})
        default = "required" if field.is_required() else "" if value in (None, (), {}) else f"`{written(value)}`"
        yield f"| `{key}` | {values(field)} | {default} | {field.description} |"


def values(field: FieldInfo) -> str:
    """What a key takes, in words: 'number above 0', 'one of `int8`, `uint8`'."""
    bounds = [part.ge for part in field.metadata if hasattr(part, "ge")]
    return f"{_words(field.annotation)}{f', {bounds[0]} or more' if bounds else ''}"


def _words(annotation: Any) -> str:
    kind, inside = get_origin(annotation), [part for part in get_args(annotation) if part is not type(None)]
    if kind in (Union, UnionType, Annotated):
        return _words(inside[0])
    if kind is Literal:
        return f"{'one of ' if len(inside) > 1 else ''}{', '.join(f'`{value}`' for value in inside)}"
    if kind is tuple and Ellipsis not in inside:
        return f"list of {len(inside)} numbers above 0"
    if kind is tuple:
        one = _words(inside[0]).removeprefix("one of ")
        return "list of " + re.sub("^(number|text|table)", r"\1s", one)
    if kind is dict:
        return "table of texts"
    if issubclass(annotation, BaseModel):
        return "table"
    return {str: "text", float: "number above 0", int: "whole number", bool: "`true` or `false`"}[annotation]


if __name__ == "__main__":
    (Path(__file__).parent / "targets.md").write_text(reference(), encoding="utf-8")
