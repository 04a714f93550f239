"""`python:` references: functions of a module or a file, loaded by name, once in each build.

A build runs one version of the user's code, even if the user edits the code meanwhile: `loaded` tells which version.
The next build in the same process calls `forget_changed` first, which makes edited code load again.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import marshal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.base.contents import hash_file
from edgekd.base.raised import line_of_user
from edgekd.base.user_code import code_of
from edgekd.errors import ModelError, nearest

Hashes = dict[str, str]  # of the files of the user's code, by the module's name
_LOADED: dict[str, tuple[Any, Hashes]] = {}  # by the name in the reference: the module, and the hashes of its files


def load_function(reference: str) -> Callable[..., Any]:
    """The function of `python:package.module:function` or `python:path/to/file.py:function`.

    Raises ModelError if the form is wrong, if the module does not import, or if the module has no function of that
    name; the error lists the nearest names.
    """
    module_name, _, function_name = reference.removeprefix("python:").rpartition(":")
    if not module_name or not function_name:
        raise ModelError(f"'{reference}': give python:module:function or python:path/to/file.py:function")
    try:
        module = _load(reference, module_name)
    except ImportError as error:
        raise ModelError(
            f"'{reference}': cannot import {module_name} ({error}); is it installed, or on PYTHONPATH?"
        ) from error
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # the module's own code may raise anything, or end the program
        where = f" in {line}" if (line := line_of_user(error)) else ""
        raise ModelError(
            f"'{reference}': {module_name} fails when imported{where}: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        possible = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ModelError(
            f"'{reference}': {module_name} has no function {function_name}{nearest(function_name, possible)}"
        )
    return function  # type: ignore[no-any-return]


def hashes_of(reference: str) -> Hashes:
    """The hashes of the files of a reference's code as they are now, by module name."""
    return {name: hash_file(file) for name, file in sorted(code_of(reference).modules.items()) if file.is_file()}


def loaded(reference: str) -> Hashes | None:
    """The hashes of the files when the reference's function was loaded; None if it was not loaded."""
    known = _LOADED.get(reference.removeprefix("python:").rpartition(":")[0])
    return None if known is None else known[1]


def forget_changed() -> None:
    """Unload each module whose files were edited since loading. Called at the start of a build."""
    for name, (_, then) in list(_LOADED.items()):
        if hashes_of(f"python:{name}:") != then:
            del _LOADED[name]
            for module in then:
                sys.modules.pop(module, None)
            importlib.invalidate_caches()


def _load(reference: str, name: str) -> Any:
    """The module of a reference, loaded once: later edits take effect in the next build."""
    if name not in _LOADED:
        before = hashes_of(reference)
        _remove_stale_bytecode(reference)
        module = _load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        if hashes_of(reference) != before:
            raise ModelError(f"'{reference}': its code changed while it was loaded; build again")
        _LOADED[name] = module, before
    return _LOADED[name][0]


def _remove_stale_bytecode(reference: str) -> None:
    """Delete bytecode that differs from its source.

    Python compares only the source's size and its time in seconds, so a quick edit of equal size would go unnoticed.
    """
    for file in code_of(reference).modules.values():
        if file.suffix != ".py":
            continue
        bytecode = Path(importlib.util.cache_from_source(str(file)))
        with contextlib.suppress(OSError, SyntaxError, ValueError, EOFError, TypeError):
            if marshal.loads(bytecode.read_bytes()[16:]) != compile(
                file.read_bytes(), str(file), "exec", dont_inherit=True
            ):
                bytecode.unlink()


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise ImportError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"edgekd_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
