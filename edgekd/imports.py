"""`python:` references: a function of a module or of a file, loaded by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError, nearest


def load_function(reference: str) -> Callable[..., Any]:
    """The function of `python:package.module:function` or `python:path/to/file.py:function`.

    Raises ModelError where the form is wrong, the module does not import, or it
    has no such function (with the nearest names).
    """
    module_name, _, function_name = reference.removeprefix("python:").rpartition(":")
    if not module_name or not function_name:
        raise ModelError(f"'{reference}': give python:module:function or python:path/to/file.py:function")
    try:
        module = _load_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"'{reference}': cannot import {module_name} ({error}); is it installed, or on PYTHONPATH?"
        ) from error
    except (Exception, SystemExit) as error:  # the module's own code may raise anything, or end the program
        raise ModelError(
            f"'{reference}': {module_name} fails when imported: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        possible = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ModelError(
            f"'{reference}': {module_name} has no function {function_name}{nearest(function_name, possible)}"
        )
    return function  # type: ignore[no-any-return]


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise ImportError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"edgekd_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
