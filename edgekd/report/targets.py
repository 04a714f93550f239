"""`edgekd targets`: prints a line for each device, or everything that is known of a single device."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekd.target import Target, list_targets, load_target

OWN_BOARD = "Another board: edgekd targets --write my-board.toml --like NAME"


def print_targets() -> None:
    """Print a line for each target, with the first of its aliases."""
    table = Table(box=None, pad_edge=False)
    for column in ("target", "device", "runtime", "runs"):
        table.add_column(column, no_wrap=column == "target")
    for target in list_targets():
        alias = f" ({target.aliases[0]})" if target.aliases else ""
        table.add_row(target.name + alias, target.title, _runtime(target), ", ".join(target.runtime.precisions))
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(f"In brackets: a second name. {OWN_BOARD}", style="dim"))


def print_target(name: str) -> None:
    """Print everything in a target's file, each table with its source and date."""
    target = load_target(name)
    console = Console(highlight=False)
    console.print(Text(f"{target.name}: {target.title}", style="bold"))
    if target.aliases:
        console.print(Text(f"also: {', '.join(target.aliases)}"))
    sections = [("hardware", target.hardware), ("runtime", target.runtime), ("quantization", target.quantization)]
    sections += [(f"JetPack {jetpack.version}", jetpack) for jetpack in target.jetpack]
    for title, section in sections:
        if section is None:
            continue
        values = section.model_dump(exclude_none=True, exclude={"source", "date"})
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(min_width=28)
        table.add_column()
        for key, value in values.items():
            if value not in ((), {}):
                table.add_row(f"  {key}", Text(_shown(value)))
        table.add_row("  source", Text(section.origin, style="dim"))
        console.print(title)
        console.print(table)
    for note in target.notes:
        console.print(Text(f"note: {note}"))


def _runtime(target: Target) -> str:
    return f"{target.runtime.name} {target.runtime.version or ''}".strip()


def _shown(value: object) -> str:
    if isinstance(value, dict) and all(isinstance(remark, dict) for remark in value.values()):
        return ", ".join(f"{key} ({remark['sites'].replace('_', ' ')})" for key, remark in value.items())
    if isinstance(value, dict):
        return ", ".join(f"{key} ({remark})" if remark else str(key) for key, remark in value.items())
    return ", ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
