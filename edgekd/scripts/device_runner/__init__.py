"""joined: the text of device_runner.py, which is sent and shipped as one file; here it lies in parts that are modules.

A part is its docstring, its imports, and from its first ruled line on the code that is joined. What a part takes from another it
imports; in the one file every name is there. So a name stands at the top of one part alone (a test sees to that).
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

NAME = "device_runner.py"
PARTS = ("start", "facts", "store", "model", "measuring", "shipping", "commands")


@cache
def joined() -> str:
    """The parts in their order, behind one docstring and one block of imports."""
    folder = Path(__file__).parent
    texts = [(folder / f"{part}.py").read_text(encoding="utf-8") for part in PARTS]
    heads, bodies = zip(*(re.split(r"^(?=# -{9})", text, maxsplit=1, flags=re.M) for text in texts), strict=True)
    modules = {name for head in heads for name in re.findall(r"^import ([\w.]+)$", head, re.M)} - {"sys"}
    imports = "".join(f"import {name}\n" for name in sorted(modules))
    return (
        _start(texts[0]) + f"\n{imports}\n{_types(heads)}\n" + "\n\n".join(body.rstrip("\n") + "\n" for body in bodies)
    )


def _start(text: str) -> str:
    """All before the imports: the docstring, and what takes the file's own folder off the path before anything is imported."""
    guard = next(node for node in ast.parse(text).body if isinstance(node, ast.If))
    return "".join(text.splitlines(keepends=True)[: guard.end_lineno])


def _types(heads: tuple[str, ...]) -> str:
    """The names that only annotations need."""
    found = re.findall(r"^    from collections\.abc import (.+)$", "\n".join(heads), re.M)
    names = sorted({name for line in found for name in line.split(", ")})
    return (
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n"
        f"    from collections.abc import {', '.join(names)}\n    from typing import Any\n"
    )
