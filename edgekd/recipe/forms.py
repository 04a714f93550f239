"""form_problem: what is wrong with the form of a model's reference, and what to write instead."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekd.base.toml_file import Loc

FORMS = ("edgekd:NAME", "timm:NAME", "python:FILE.py:FUNCTION", "onnx:FILE.onnx", "exported:FILE.pt2")
WITHOUT_CODE = ("onnx", "exported")  # a graph that runs as it is: it teaches, and does not train
KINDS = ("edgekd", "timm", "python", *WITHOUT_CODE)
GRAPHS = {".onnx": "onnx", ".pt2": "exported"}
WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
ENGINES = (".engine", ".plan", ".trt")
OTHERS = (".tflite", ".h5", ".keras", ".mlmodel", ".mlpackage", ".pb", ".tf")


def form_problem(given: str, *, trains: bool, folder: Path) -> str | None:
    """The problem with a model's reference as the user wrote it; None if its form is right.

    trains: whether the model is trained here. folder: the recipe's, where relative paths start. No model is loaded, and no
    code of the user runs.
    """
    kind, colon, name = given.partition(":")
    if not colon or kind not in KINDS:
        return f'"{given}" given; {_instead(given, trains, folder)}'
    if not name:
        return f'"{given}" names no model; write {_form(kind)}'
    if kind == "python":
        return _function_problem(name, folder)
    if kind not in WITHOUT_CODE:
        return None
    if trains:
        return f'"{given}" given; it cannot be trained: give edgekd:NAME, timm:NAME or python:FILE.py:FUNCTION'
    fits = GRAPHS.get(Path(name).suffix.lower())
    if Path(name).suffix.lower() in WEIGHTS or fits not in (None, kind):
        return f'"{given}" given; {_instead(name, trains, folder)}'
    return None


def _form(kind: str) -> str:
    return next(form for form in FORMS if form.startswith(f"{kind}:"))


def _instead(given: str, trains: bool, folder: Path) -> str:
    """What to write instead of a reference without a known kind, by its ending."""
    suffix = Path(given).suffix.lower()
    if suffix in GRAPHS and trains:
        return "a graph cannot be trained: give edgekd:NAME, timm:NAME or python:FILE.py:FUNCTION"
    if suffix in GRAPHS:
        return f'write "{GRAPHS[suffix]}:{given}"'
    if suffix == ".py":
        return f'write "python:{given}:FUNCTION", the function that makes the network{_functions(folder / given)}'
    if suffix in WEIGHTS:
        return (
            "such a file holds weights, and no network that edgekd could run: write model = the network "
            f'(edgekd:NAME, timm:NAME or python:FILE.py:FUNCTION), and weights = "{given}"'
        )
    if suffix in ENGINES:
        return "an engine runs on its own kind of device alone: give the ONNX file that it was built from, as onnx:FILE.onnx"
    if suffix in OTHERS:
        return "edgekd does not read this format: convert it to ONNX, and write onnx:FILE.onnx"
    kind, colon, name = given.partition(":")
    if colon and (close := difflib.get_close_matches(kind, KINDS, n=1)):
        return f'did you mean "{close[0]}:{name}"? The forms are {", ".join(FORMS)}'
    more = f'; a function of a Python module is "python:{given}"' if colon and name else ""
    return f"write one of these forms: {', '.join(FORMS)}{more}"


def _function_problem(name: str, folder: Path) -> str | None:
    """The problem with what stands behind `python:`; None for `FILE.py:FUNCTION` and `module:function`."""
    module, colon, function = name.rpartition(":")
    if colon and module and function:
        return None
    if not name.endswith(".py"):
        return f'"python:{name}" names no function; write python:FILE.py:FUNCTION or python:module:function'
    functions = _functions(folder / name)
    return f'"python:{name}" names no function; write "python:{name}:FUNCTION"{functions}'


def _functions(file: Path) -> str:
    """The functions and classes at the top of a file, which is read and not run; empty if it cannot be read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    made = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    names = [node.name for node in made if not node.name.startswith("_")]
    return f" (it has {', '.join(names[:10])})" if names else ""


def wrong_forms_in(document: Mapping[str, Any], folder: Path) -> Iterator[tuple[Loc, str]]:
    """The places and problems of models in a document whose other parts may be wrong. folder: the recipe's."""
    for name in ("teacher", "student", "tasks"):
        yield from _wrong_in((name,), document.get(name), document, folder)


def _wrong_in(loc: Loc, value: object, document: Mapping[str, Any], folder: Path) -> Iterator[tuple[Loc, str]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        if key == "model" and isinstance(item, str):
            if problem := form_problem(item, trains=is_trained(loc, document), folder=folder):
                yield (*loc, key), problem
        elif key != "args":
            yield from _wrong_in((*loc, key), item, document, folder)


def is_trained(loc: Loc, document: Mapping[str, Any]) -> bool:
    """Whether the model of a table, as ("student", "assistants", 0), is trained here."""
    teacher = document.get("teacher")
    teaches = bool(isinstance(teacher, Mapping) and teacher.get("train_epochs"))
    return loc == ("student",) or loc[:2] == ("student", "assistants") or (loc == ("teacher",) and teaches)
