"""`edgekd targets --write`: a commented copy of a target, as the start of a file for a board of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from pydantic import BaseModel

from edgekd.base.contents import write_atomically
from edgekd.base.names import LONGEST_TEXT, folder_problem
from edgekd.errors import RecipeError
from edgekd.target.files import list_targets, load_target
from edgekd.target.tables import OWN, Sourced, Target

HEAD = """\
# A board of your own, begun as a copy of {like}. docs/targets.md explains each key.
#
#     edgekd targets {file}      shows it, or all mistakes in it, each with its line
#     edgekd build -t {file}     builds for it
#
# Every figure below is one of {like}: replace it by your board's, or delete its line. Never guess.
# Where the figures of a table are your board's, name their source, or delete `source` and `date`: they are then told as your own.
# A line that begins with `# key =` states nothing; it names a key that you may add.
"""
COLUMN = 44  # where a remark begins, if its line is short enough
LONGEST = 140
TABLES = ("hardware", "runtime", "jetpack", "quantization")


def write_target(file: Path, like: str, *, force: bool = False) -> str:
    """Write a copy of the target `like` (a name, an alias or a .toml file) to edit, and return a message.

    Name and title are those of the file, the aliases are dropped. Raises RecipeError if `like` is unknown, if the file exists
    (unless `force`), if its name ends otherwise than in .toml or cannot name a bundle's folder, and if it cannot be written.
    """
    original = load_target(like)
    _check_place(file, force=force)
    try:
        write_atomically(file, copy_of(original, file).encode())
    except OSError as error:
        raise RecipeError(f"{file} cannot be written: {error.strerror}; give another place") from error
    load_target(str(file))
    return f"wrote {file}, a copy of {original.name}: replace its figures, then edgekd build -t {quote(str(file))}"


def _check_place(file: Path, *, force: bool) -> None:
    if file.suffix != ".toml":
        raise RecipeError(f"--write {file}; a target file ends in .toml: give {file}.toml")
    if problem := folder_problem(file.stem):
        raise RecipeError(f"--write {file}; the file's name names the bundle's folder: {problem}. Give another name")
    if any(file.stem.lower() in (target.name, *target.aliases) for target in list_targets()):
        raise RecipeError(f"--write {file}; {file.stem} is a target of edgekd: give your board a name of its own")
    if not file.parent.is_dir():
        raise RecipeError(f"--write {file}; {file.parent} is no folder: make it, or give another place")
    if file.is_dir():
        raise RecipeError(f"--write {file}; it is a folder: give another name")
    if file.exists() and not force:
        raise RecipeError(f"{file} exists; change it, or replace it with --force")


def copy_of(original: Target, file: Path) -> str:
    """The text of a copy of `original` that lies at `file`."""
    title = re.sub(r"[-_. ]+", " ", file.stem).strip().capitalize() or file.stem
    notes = tuple(f"of {original.name}: {note}"[:LONGEST_TEXT] for note in original.notes)
    copy = original.model_copy(update={"name": file.stem, "title": title, "notes": notes})
    parts = [HEAD.format(like=original.name, file=quote(file.name)), *_keys(copy, leave_out=("aliases", *TABLES))]
    for name in TABLES:
        value = getattr(original, name)
        for table in value if isinstance(value, tuple) else [value] if value is not None else []:
            parts += ["", f"[[{name}]]" if isinstance(value, tuple) else f"[{name}]", *_sourced(table, original.name)]
    if original.quantization is not None:
        parts += ["", "[quantization.operators]", *_keys(original.quantization.operators)]
    return "\n".join(parts) + "\n"


def _sourced(table: Sourced, like: str) -> Iterator[str]:
    """The keys of a table with figures; its source says that they are copied."""
    yield from _keys(table, leave_out=("source", "date", "operators"))
    source = f"copied from {like}: {table.source or OWN}"
    yield f"source = {written(source[:LONGEST_TEXT])}"
    if table.date is not None:
        yield f"date = {written(table.date)}"


def _keys(table: BaseModel, leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    """A line for each key that the table states, then one for each that it may state besides."""
    fields = {name: field for name, field in type(table).model_fields.items() if name not in leave_out}
    for name, field in fields.items():
        if name in table.model_fields_set:
            yield from _remarked(f"{name} = {written(getattr(table, name))}", field.description or "")
    for name, field in fields.items():
        if name not in table.model_fields_set:
            yield from _remarked(f"# {name} =", field.description or "")


def _remarked(line: str, remark: str) -> Iterator[str]:
    """The line with its remark behind it, or above it where both are too long for one line."""
    if len(line) < COLUMN and COLUMN + len(remark) <= LONGEST:
        yield f"{line:{COLUMN}}# {remark}"
    else:
        yield from (f"# {remark}", line)


def written(value: object) -> str:
    """A value of a target as TOML."""
    if isinstance(value, BaseModel):
        return written(value.model_dump(exclude_unset=True))
    if isinstance(value, dict):
        pairs = (
            f"{key if re.fullmatch(r'[A-Za-z_]+', key) else _text(key)} = {written(v)}" for key, v in value.items()
        )
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    if isinstance(value, tuple | list) and sum(len(item) for item in value if isinstance(item, str)) > LONGEST:
        return "\n".join(["[", *(f"    {written(item)}," for item in value), "]"])
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, float):
        return f"{value:.15g}"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
