"""The user's code behind a `python:` reference: files and libraries, found from the source text without running it.

Counted are the named file or module and every module that it imports, directly or not. An import may be a statement
anywhere in the text, or `import_module("name")`. An installed package counts by its version. Data files count too if
the text names them in full, as in `open("widths.json")`. They are looked for in the module's folder, in its parent
folder and in the working folder. A name that is put together at run time is not found.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import site
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

LONGEST_NAME = 255


@dataclass
class UserCode:
    """The user's files and libraries.

    modules: name -> file of code; named: the text that names a data file -> the file; libraries: import names.
    """

    modules: dict[str, Path] = field(default_factory=dict)
    named: dict[str, Path] = field(default_factory=dict)
    libraries: set[str] = field(default_factory=set)


def code_of(reference: str) -> UserCode:
    """The code of `python:FILE.py:function` or `python:module:function`.

    Empty if the file or module does not exist.
    """
    name = reference.removeprefix("python:").rpartition(":")[0]
    found = UserCode()
    if name.endswith(".py"):
        if Path(name).is_file():
            _follow(found, Path(name).name, Path(name), "", [])
        return found
    for module, spec in _specs(name, []):
        _add(found, module, spec, [], named=module == name)
    return found


def version_of(library: str) -> str:
    """The version of the package with this import name; `absent` if no package has it."""
    return _version(library) or next(filter(None, map(_version, _distributions().get(library, ()))), "absent")


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except (PackageNotFoundError, ValueError):
        return None


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def _follow(code: UserCode, name: str, file: Path, package: str, search: list[str]) -> None:
    """Add a file of the user with the modules and files that its text names."""
    code.modules[name] = file
    if file.suffix != ".py":  # compiled code cannot be read; only its bytes count
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings on the user's code appear when the code runs
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # the import reports the mistake
    folders = [file.absolute().parent, file.absolute().parent.parent, Path.cwd()]
    for text in {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str}:
        place = _named(text, folders)
        if place is not None and place.is_dir():  # perhaps a folder that is put on sys.path
            search = [*search, str(place)]
        elif place is not None and place.suffix != ".py":
            code.named[text] = place
    search = [str(folders[0]), *search]
    for module in sorted(set(_imports(tree, package))):
        for part, spec in _specs(module, search):
            _add(code, part, spec, search)


def _named(text: str, folders: list[Path]) -> Path | None:
    """The file or folder that a string of the source text names; None if there is none."""
    if not 0 < len(text) <= LONGEST_NAME or "\n" in text or "\0" in text or set(text) <= set("./"):
        return None
    for folder in folders:
        place = folder / os.path.expanduser(text)
        try:
            if place.is_file() or place.is_dir():
                return place
        except OSError:
            continue
    return None


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The full names of the modules that a text may import. Relative names start at `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *filter(None, [base])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(name, str):
                yield name if not name.startswith(".") else f"{package}{name}"


def _specs(module: str, search: list[str]) -> Iterator[tuple[str, ModuleSpec]]:
    """The specs of a module and its parent packages, outermost first, as far as they exist.

    No module is imported.
    """
    places: list[str] | None = None
    parts = module.split(".")
    for number in range(len(parts)):
        name = ".".join(parts[: number + 1])
        if name.rpartition(".")[2] == "*":
            for place in places or []:  # all of a package
                for file in sorted(Path(place).glob("*.py")):
                    yield from _specs(f"{name[:-2]}.{file.stem}", search) if file.stem != "__init__" else ()
            return
        spec = _find(name, places, search)
        if spec is None:
            return
        yield name, spec
        if spec.submodule_search_locations is None:
            return
        places = list(spec.submodule_search_locations)


def _find(name: str, places: list[str] | None, search: list[str]) -> ModuleSpec | None:
    try:
        if places is not None:
            return PathFinder.find_spec(name, places)
        return importlib.util.find_spec(name) or PathFinder.find_spec(name, search)
    except (ImportError, ValueError, AttributeError, OSError):
        return None


def _add(code: UserCode, name: str, spec: ModuleSpec, search: list[str], named: bool = False) -> None:
    top = name.partition(".")[0]
    if spec.origin is None or spec.origin in ("built-in", "frozen"):  # a namespace, or Python itself
        return
    file = Path(spec.origin)
    if _is_installed(file):
        if top not in sys.stdlib_module_names:
            code.libraries.add(top)
        if named and not _is_python(file):  # the user's own package may keep its version when its code changes
            code.modules[name] = file
        return
    if top == "edgekd" and file.is_relative_to(Path(__file__).parent.parent) and not named:
        return
    if name not in code.modules:
        package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        _follow(code, name, file, package, search)


@cache
def _installed() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    places = [*(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")), *site.getsitepackages()]
    return tuple({Path(place).resolve() for place in (*places, site.getusersitepackages())})


def _is_installed(file: Path) -> bool:
    file = file.resolve()
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or any(map(file.is_relative_to, _installed()))


def _is_python(file: Path) -> bool:
    """Whether a file belongs to Python itself, not to an installed package."""
    return not {"site-packages", "dist-packages"} & set(file.resolve().parts)
