"""The mistakes in a TOML file: all at once, each with its place in the file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cache
from importlib.resources.abc import Traversable
from inspect import isclass
from typing import Any, get_args

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from edgekd.base.names import in_a_line
from edgekd.errors import RecipeError, nearest

Loc = tuple[str | int, ...]
LARGEST = 1 << 20  # bytes of a file
MOST_TOLD = 50  # mistakes
DEEPEST = 50  # tables and lists in one another
SEARCHED = 3_000_000  # characters parsed again to find lines
ENDS = re.compile(r"(?:[\]}]|\"\"\"|''')\s*(?:#.*)?$")  # the last line of a value that takes several lines
CHAIN = re.compile(r"(?<![\w\"'-])(?:[\w\"'-]++\s*+\.\s*+){100}")  # tomllib takes time by the square of the steps


@dataclass(frozen=True)
class Mistake:
    place: str
    text: str


def refuse(title: str, mistakes: Sequence[Mistake]) -> None:
    """Raise RecipeError with a table of the mistakes, if there are any."""
    if not mistakes:
        return
    width = max(len(mistake.place) for mistake in mistakes[:MOST_TOLD])
    count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
    rows = [in_a_line(f"  {mistake.place:{width}}  {mistake.text}") for mistake in mistakes[:MOST_TOLD]]
    if len(mistakes) > MOST_TOLD:
        rows.append(f"  and {len(mistakes) - MOST_TOLD} more")
    raise RecipeError("\n".join([f"{count} in {title}:", *rows]))


@dataclass(frozen=True)
class Places:
    """Tells where a value came from: `edgekd.toml:12 distill.epochs`, or `--set distill.epochs`."""

    file: str
    text: str
    overridden: tuple[Loc, ...] = ()

    def __call__(self, loc: Loc) -> str:
        lines = lines_of(self.text)
        for key in reversed(self.overridden):
            set_here = loc[: len(key)] == key
            set_inside = loc not in lines and key[: len(loc)] == loc
            if set_here or set_inside:
                return f"--set {dotted(loc if set_here else key)}"
        known = next((loc[:n] for n in range(len(loc), 0, -1) if loc[:n] in lines), None)
        return f"{self.file}{'' if known is None else f':{lines[known]}'} {dotted(loc)}".rstrip()


def dotted(loc: Loc) -> str:
    return ".".join(str(step) for step in loc)


def shown(value: object) -> str:
    """A value as it is written in TOML, shortened to 60 characters."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_text(file: Traversable) -> str:
    """The text of a file. Raises RecipeError if the file cannot be read or is larger than 1 MB."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise RecipeError(f"{file} is larger than {LARGEST >> 20} MB; no recipe or target is")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file} is not UTF-8 text, which TOML is: byte {error.start} cannot be read") from None
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror}") from error


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """The document of a TOML text.

    Raises RecipeError with the line and column of a syntax error, or with the key of a value that is too deep or large.
    """
    if chain := CHAIN.search(text):
        raise RecipeError(f"{file}:{text.count(chr(10), 0, chain.start()) + 1}: a key of more than 100 steps")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
        reason, line, column = found.groups() if found else (str(error).partition(" (at")[0], *_end(text))
        raise RecipeError(f"{file}:{line} column {column}: not TOML: {reason}") from None
    except RecursionError:
        raise RecipeError(f"{file}{_where(text, DEEPEST, 10**9)}: nested deeper than {DEEPEST}") from None
    except ValueError:  # Python reads no decimal number of more than 4300 digits
        raise RecipeError(f"{file}{_where(text, 10**9, 1000)}: a number of more than 4300 digits") from None
    refuse(file, beyond(document, Places(file, text)))
    return document


def _where(text: str, depth: int, digits: int) -> str:
    """The line and key where brackets nest deeper than `depth` or a number has more than `digits` digits."""
    key, deep = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if deep == 0 and (found := re.match(r"\s*([\w.\"'-]{1,100})\s*=", line)):
            key = f" {found[1]}"
        deep += line.count("[") + line.count("{") - line.count("]") - line.count("}")
        longest = max((len(run) for run in re.findall(r"[\d_]+", line)), default=0)
        if line.count("[") + line.count("{") > depth or deep > depth or longest > digits:
            return f":{number}{key}"
    return ""


def beyond(document: Mapping[str, Any], places: Callable[[Loc], str]) -> list[Mistake]:
    """Mistakes for values that no key can take: nested too deep, or whole numbers beyond 64 bits."""
    mistakes = []
    waiting: list[tuple[Loc, Any]] = [((), document)]
    while waiting:
        loc, value = waiting.pop()
        if len(loc) > DEEPEST:
            return [Mistake(places(loc[:3]), f"nested deeper than {DEEPEST}")]
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            mistakes.append(
                Mistake(places(loc), f"a number of {value.bit_length()} bits given; whole numbers have at most 64")
            )
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += [((*loc, key), item) for key, item in inside]
    return mistakes[::-1]


def _end(text: str) -> tuple[int, int]:
    lines = text.split("\n")
    return len(lines), len(lines[-1]) + 1


@cache
def lines_of(text: str) -> Mapping[Loc, int]:
    """The line of each key and table of a valid TOML text; tomllib does not give lines.

    Each statement is a TOML text by itself. Lines are gathered until they parse, so a multi-line value is one statement.
    """
    lines: dict[Loc, int] = {}
    table: Loc = ()
    last: dict[Loc, int] = {}  # array of tables -> index of its last entry
    statement, start, left = "", 1, SEARCHED
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        start = start if statement else number
        is_first = not statement
        statement += f"{line}\n"
        if not is_first and not ENDS.search(line):
            continue
        left -= len(statement)
        if left < 0:  # a list of thousands of lines: mistakes after it are told without a line
            return lines
        try:
            content = tomllib.loads(statement)
        except (ValueError, RecursionError):
            continue
        if statement.lstrip().startswith("["):
            table = _header(content, last)
            lines[table] = start
        else:
            lines |= {table + loc: start for loc in _locs(content) if table + loc not in lines}
        statement = ""
    return lines


def _header(content: dict[str, Any], last: dict[Loc, int]) -> Loc:
    """The place that `[a.b]` or `[[a.b]]` opens. Counts the entries of arrays in `last`."""
    loc: Loc = ()
    rest: Any = content
    while isinstance(rest, dict) and rest:
        ((key, rest),) = rest.items()
        loc += (key,)
        if isinstance(rest, list):
            last[loc] = last.get(loc, -1) + 1
        if loc in last:
            loc += (last[loc],)
    return loc


def _locs(value: object) -> Iterator[Loc]:
    """The places of all values inside a value, in order."""
    waiting: list[tuple[Loc, object]] = [((), value)]
    while waiting:
        loc, value = waiting.pop()
        if loc:
            yield loc
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        if len(loc) <= DEEPEST:
            waiting += reversed([((*loc, key), item) for key, item in inside])


def as_json(document: object) -> str:
    """The document as JSON, for strict validation: only from JSON does pydantic take a list for a tuple.

    Dates become text here; date_mistakes refuses them.
    """
    return json.dumps(document, default=str)


def date_mistakes(document: Mapping[str, Any], places: Callable[[Loc], str]) -> list[Mistake]:
    """A mistake for each TOML date or time: no key of edgekd takes them."""
    mistakes = []
    for loc in _locs(document):
        value: Any = document
        for step in loc:
            value = value[step]
        if isinstance(value, date | datetime | time):
            mistakes.append(Mistake(places(loc), f'{value} given, a TOML date; write it in quotes: "{value}"'))
    return mistakes


def validation_mistakes(error: ValidationError, model: type[BaseModel], places: Callable[[Loc], str]) -> list[Mistake]:
    """pydantic's errors in edgekd's words."""
    mistakes = []
    for item in error.errors(include_url=False):
        loc = _as_written(model, item["loc"])
        if item["type"] == "union_tag_invalid":  # the key that chooses the kind of a table
            loc = (*loc, item["ctx"]["discriminator"].strip("_").removesuffix("_of()"))
        mistakes.append(Mistake(places(loc), wording(item, model)))
    return mistakes


def wording(item: ErrorDetails, model: type[BaseModel]) -> str:
    """The words of an error: the value that was given, and the possible values."""
    match item["type"]:
        case "extra_forbidden":
            parent = _table_at(model, item["loc"][:-1])
            return f"unknown key {item['loc'][-1]!r}{nearest(str(item['loc'][-1]), _keys(parent) if parent else ())}"
        case "missing":
            table = _table_at(model, item["loc"])
            required = [key for key, field in table.model_fields.items() if field.is_required()] if table else []
            if required:
                return f"missing; write this table with: {', '.join(required)}"
            return (
                "missing; it is required"
                if table is None
                else "missing; write this table; each of its keys may be left out"
            )
        case "literal_error":
            possible = re.findall(r"'([^']*)'", item["ctx"]["expected"])
            return f"{shown(item['input'])} given{nearest(str(item['input']), possible)}"
        case "union_tag_invalid":
            possible = re.findall(r"'([^']*)'", item["ctx"]["expected_tags"])
            return f"{shown(item['ctx']['tag'])} given{nearest(item['ctx']['tag'], possible)}"
        case "value_error":
            return item["msg"].removeprefix("Value error, ")
        case _:
            text = re.sub(r"^\w+ should", "should", item["msg"]).replace("an object", "a table")
            return f"{shown(item['input'])} given; {text}"


def _keys(table: type[BaseModel]) -> list[str]:
    """The keys of a table. What is excluded and not described is no key of a file."""
    return [key for key, field in table.model_fields.items() if not field.exclude or field.description]


def _table_at(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """The model of the table at `loc`; None if no table is there."""
    return _walk(model, loc)[0]


def _as_written(model: type[BaseModel], loc: Loc) -> Loc:
    """The place as it stands in the file: pydantic also names the chosen one of several models for a table."""
    return _walk(model, loc)[1]


def _walk(model: type[BaseModel], loc: Loc) -> tuple[type[BaseModel] | None, Loc]:
    """The model at `loc`, and `loc` without the tags of models."""
    table: type[BaseModel] | None = model
    tags: dict[str, type[BaseModel]] = {}
    written: list[str | int] = []
    for key in loc:
        if key in tags:
            table, tags = tags[str(key)], {}
            continue
        written.append(key)
        if isinstance(key, str):  # an index stays in the same field: tuple[Loss, ...]
            field = table.model_fields.get(key) if table else None
            table = _model_in(field.annotation) if field else None
            tags = _tagged(field.annotation) if field else {}
    return table, tuple(written)


def _tagged(annotation: object) -> dict[str, type[BaseModel]]:
    """Tag -> model, for a table that has one of several models."""
    return {
        part.tag: kind
        for option in get_args(annotation)
        for part in getattr(option, "__metadata__", ())
        if isinstance(part, Tag) and (kind := _model_in(option)) is not None
    }


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model inside an annotation: `Loss` of `Loss | None` or `tuple[Loss, ...]`."""
    if isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for model in map(_model_in, get_args(annotation)) if model), None)
