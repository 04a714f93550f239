"""joined: the text of device_runner.py, which is sent and shipped as a single file, from its parts here.

The parts are modules. Each consists of its docstring, its imports and, from its first ruled line on, the joined code. A
part imports names of other parts; in the joined file every name is defined. So a name stands at the top of a single part (a
test checks this).
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
    """The parts in their order, behind a single docstring and a single block of imports."""
    folder = Path(__file__).parent
    texts = [(folder / f"{part}.py").read_text(encoding="utf-8") for part in PARTS]
    heads, bodies = zip(*(re.split(r"^(?=# -{9})", text, maxsplit=1, flags=re.M) for text in texts), strict=True)
    modules = {name for head in heads for name in re.findall(r"^import ([\w.]+)$", head, re.M)} - {"sys"}
    imports = "".join(f"import {name}\n" for name in sorted(modules))
    return (
        _start(texts[0]) + f"\n{imports}\n{_types(heads)}\n" + "\n\n".join(body.rstrip("\n") + "\n" for body in bodies)
    )


def _start(text: str) -> str:
    """The text before the imports: the docstring, and the guard that removes the file's own folder from the path."""
    guard = next(node for node in ast.parse(text).body if isinstance(node, ast.If))
    return "".join(text.splitlines(keepends=True)[: guard.end_lineno])


def _types(heads: tuple[str, ...]) -> str:
    """The imports for names that only annotations need."""
    found = re.findall(r"^    from collections\.abc import (.+)$", "\n".join(heads), re.M)
    names = sorted({name for line in found for name in line.split(", ")})
    return (
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n"
        f"    from collections.abc import {', '.join(names)}\n    from typing import Any\n"
    )
