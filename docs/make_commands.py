"""Writes docs/commands.md, every command with its options, from the command line's code: python docs/make_commands.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from edgekd.cli import app

HEAD = """\
# Commands

`edgekd COMMAND --help` shows the same. `edgekd --install-completion` teaches the shell (bash, zsh, fish) to complete commands and options.
[json.md](json.md) has the exit codes.

<!-- Written by docs/make_commands.py. -->
"""


def reference() -> str:
    """The page's text."""
    return "\n".join(
        [
            HEAD,
            *(
                section
                for name, command in commands(get_command(app), "edgekd")
                for section in described(name, command)
            ),
        ]
    )


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The commands with their whole names, those of a group in its place."""
    for word, own in getattr(command, "commands", {}).items():
        if hasattr(own, "commands"):
            yield from commands(own, f"{name} {word}")
        else:
            yield f"{name} {word}", own


def described(name: str, command: Any) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"{' '.join((command.help or '').split())}\n"
    rows = [
        (written(parameter), " ".join((getattr(parameter, "help", None) or "").split())) for parameter in command.params
    ]
    yield "\n".join(["| | |", "|---|---|", *(f"| {what} | {cell(text)} |" for what, text in rows if text)]) + "\n"


def written(parameter: Any) -> str:
    """An argument by its name in capitals, an option by all its forms: '`--target`, `-t`'."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{form}`" for form in (*parameter.opts, *parameter.secondary_opts))


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    (Path(__file__).parent / "commands.md").write_text(reference(), encoding="utf-8")
