"""The house: which room may import from which, read from the imports of every module, those inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "edgekd"
FLOORS = (
    ("errors", "scripts"),
    ("base",),
    ("figures",),
    ("target",),
    ("recipe",),
    ("cache",),
    ("runtime",),
    ("inputs", "tasks"),
    ("data",),
    ("models", "start"),
    ("distill", "quantize", "export"),
    ("steps",),
    ("report",),
    ("bundle",),
    ("measure",),
    ("check",),
    ("pipeline",),
    ("api",),
    ("cli", "cli_device"),
)
"""Bottom to top: a room imports from its own floor's rooms below, never from one above."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LONGEST = 60  # lines of a function
SIDE_BY_SIDE = {("cli", "cli_device")}  # one command in two files


def modules() -> dict[str, Path]:
    """Dotted name below edgekd -> file; a package is named as its folder."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports(file: Path) -> Iterator[str]:
    """Modules of edgekd, `from edgekd.base import console` as `base.console`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}".removeprefix("edgekd.")
                yield whole if whole in MODULES else node.module.removeprefix("edgekd.")
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("edgekd.") for alias in node.names)


ARROWS = {name: {to for to in imports(file) if to != name and to in MODULES} for name, file in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES if module} == set(FLOOR)


def test_no_arrow_goes_up() -> None:
    up = [
        f"{module} -> {to}"
        for module, targets in ARROWS.items()
        for to in targets
        if module and FLOOR[room(to)] > FLOOR[room(module)]
    ]
    assert not up


def test_rooms_of_a_floor_stand_side_by_side() -> None:
    across = {
        (room(module), room(to))
        for module, targets in ARROWS.items()
        for to in targets
        if module and room(module) != room(to) and FLOOR[room(to)] == FLOOR[room(module)]
    }
    assert across == SIDE_BY_SIDE


def test_no_module_imports_itself_by_way_of_others() -> None:
    """graphlib raises CycleError, which names the circle."""
    tuple(TopologicalSorter({name: targets for name, targets in ARROWS.items() if name}).static_order())


def test_few_modules_lie_loose() -> None:
    loose = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__"}
    assert loose == {"api", "cli", "cli_device", "errors", "pipeline"}


def test_what_runs_on_a_device_imports_nothing_of_edgekd() -> None:
    assert not {
        to for name, targets in ARROWS.items() if room(name) == "scripts" for to in targets if room(to) != "scripts"
    }


def test_no_test_imports_another() -> None:
    """What several need lies in tests/builders, so that a renamed test breaks no other."""
    tests = Path(__file__).parent
    found = [
        f"{file.relative_to(tests)} imports {node.module}"
        for file in tests.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and ".test_" in (node.module or "")
    ]
    assert not found


def test_a_function_fits_a_screen() -> None:
    """The command line's `measure` counts without its options, which stand in its signature."""
    long = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                begins = node.body[0].lineno if file.stem.startswith("cli") else node.lineno
                if node.end_lineno - begins >= LONGEST:
                    long.append(f"{file.relative_to(PACKAGE)}: {node.name}")
    assert not long


def test_the_flow_fits_a_screen() -> None:
    tree = ast.parse((PACKAGE / "pipeline.py").read_text())
    (build,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build")
    assert sum(isinstance(node, ast.stmt) for node in ast.walk(build)) - 1 <= 25
