"""Writes docs/json.md, the keys of what commands print with --json, from their records: python docs/make_json.py"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from edgekd.figures.comparison import Comparison
from edgekd.figures.outputs import OUTPUTS

HEAD = """\
# JSON

With `--json` a command prints one JSON document on standard output. Progress and errors go to standard error, and the exit code is the
same as without `--json`. `edgekd recipe --schema` prints the JSON schema of `edgekd.toml`, and `edgekd recipe FOLDER` a recipe with every
default filled in.

    edgekd build -t jetson --json | jq -r '.bundles[].report.headline'

| exit code | meaning |
|---|---|
| 0 | done; of a build, a report and a measurement: no check is missed |
| 1 | edgekd itself failed: please report it, with the traceback |
| 2 | wrong input; the message says what was given, what is possible and what to do |
| 3 | a check is missed, a file or an output differs, or the target refuses a graph |
| 130 | stopped by Ctrl-C; what is finished is kept, and the same command goes on from there |

`format` is the version of a document. It grows when a key is renamed, removed or means something else; new keys may come at any time.
`report` is what stands in a bundle's `report.json`, with a `format` of its own.

<!-- Written by docs/make_json.py. -->
"""


def reference() -> str:
    """The page's text."""
    parts, known = [HEAD], set[type[BaseModel]]()
    queue: list[type[BaseModel]] = [*OUTPUTS, Comparison]
    for record in queue:
        if record not in known:
            known.add(record)
            parts.append(table(record))
            queue += [each for each in records_in(record) if each not in known]
    return "\n".join(parts)


def table(record: type[BaseModel]) -> str:
    schema = record.model_json_schema(mode="serialization")
    head = [
        f"## {record.__name__}\n",
        inspect.cleandoc(record.__doc__ or "") + "\n",
        "| key | type | |",
        "|---|---|---|",
    ]
    rows = [
        f"| `{key}` | {typed(about)} | {about.get('description', '')} |" for key, about in schema["properties"].items()
    ]
    return "\n".join([*head, *rows, ""])


def typed(about: dict[str, Any]) -> str:
    """A key's type in words: 'number', 'array of Candidate', 'string or null'."""
    if "anyOf" in about:
        return " or ".join(map(typed, about["anyOf"]))
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in about or "const" in about:
        return ", ".join(f"`{value!r}`".replace("'", '"') for value in about.get("enum", [about.get("const")]))
    if about.get("type") == "array":
        inner = about.get("items") or (about.get("prefixItems") or [{}])[0]
        return f"array of {typed(inner)}"
    if about.get("type") == "object" and isinstance(about.get("additionalProperties"), dict):
        return f"object of {typed(about['additionalProperties'])}"
    return str(about.get("type", "any"))


def records_in(record: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The records that a record's fields hold, in their order."""
    for field in record.model_fields.values():
        yield from _records(field.annotation)


def _records(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _records(part)


if __name__ == "__main__":
    (Path(__file__).parent / "json.md").write_text(reference(), encoding="utf-8")
