"""mutated_bytes, mutated: the same seed gives the same damage to a file's bytes, or to a document of tables, lists and values."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

TOKENS = (
    b"", b"\0", b"\xff" * 8, b"[" * 1000, b"{" * 1000, b"9" * 400, b"-1", b"1e999", b"NaN", b"null", b"../", b"\x1b[2J", b'"', b"\n",
    b"\xe2\x80\xae", (2**31).to_bytes(8, "little"), (2**63).to_bytes(8, "little"), b"\xff\xff\xff\x7f", b"\xff" * 9 + b"\x01",
)  # fmt: skip


def values() -> list[Any]:
    """What stands in the place of a value: each of another kind, or beyond a bound."""
    deep: Any = 1
    for _ in range(120):
        deep = [deep]
    return [
        None, True, False, 0, 1, -1, 2, 255, 2**31, 2**32, 2**62, 2**63, -(2**63), 10**30, 10**400, 0.0, -0.5, 0.1, 1e-300, 1e300,
        float("inf"), float("-inf"), float("nan"), "", " ", ".", "..", "../../x", "/etc/passwd", "a/b", "a\\b", "\0", "a\0b", "\x1b[2J",
        "\u202ea", "\ud800", "a\nb", "x" * 3000, "1", "1e999", "nan", "none", "python:os:getcwd", "onnx:/dev/zero", "__class__",
        "[" * 300, [], {}, [None], [[]], [{}], {"": 1}, {"a": {}}, {"name": 1}, [1] * 3, ["x", 1], deep, list(range(1000)), "uint8",
    ]  # fmt: skip


def mutated_bytes(rng: random.Random, content: bytes, others: tuple[bytes, ...] = ()) -> bytes:
    """One to eight of: a bit flipped, bytes changed, cut out, doubled, moved, cut off, joined with another file's."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 4, 8, 64, 1000)))
        match rng.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            case 2:
                data[at:end] = rng.randbytes(end - at)
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = data[at:end] * rng.choice((1, 2, 50))
            case 5:
                data[at:at] = rng.choice(TOKENS)
            case 6 if rng.random() < 0.2:
                del data[at:]
            case _ if others:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                data[at:end] = other[start : start + rng.choice((4, 64, 1000))]
    return bytes(data)


def mutated(rng: random.Random, document: Any) -> Any:
    """One to five of: a value replaced, a key left out, added, renamed or doubled, two values exchanged."""
    changed = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        places = _places(changed)
        if not places:
            return rng.choice(values())
        container, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[str(rng.choice(values()))[:50]] = container.pop(key)
            case 2 if isinstance(container, dict):
                container[rng.choice(("", "x", "__class__", "a.b", "\x1b[2J", "folder", "name"))] = rng.choice(values())
            case 3 if isinstance(container, list):
                container[key:key] = [container[key]] * rng.choice((1, 3, 100))
            case 4:
                other, place = rng.choice(places)
                value = copy.deepcopy(other[place]) if _has(other, place) else None
                container[key] = value
            case 5 if isinstance(container[key], int | float):
                container[key] = _near(rng, container[key])
            case 6 if isinstance(container[key], str):
                container[key] = mutated_bytes(rng, container[key].encode("utf-8", "replace")).decode(
                    "utf-8", "replace"
                )
            case _:
                container[key] = rng.choice(values())
    return changed


def _near(rng: random.Random, number: float) -> Any:
    near = [number + 1, number - 1, -number, number * 10**6, str(number)[:1000]]
    return rng.choice([*near, number / 3, float(number)] if abs(number) < 2**64 else near)


def _has(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    places = []
    waiting = [document]
    while waiting:
        container = waiting.pop()
        inside = (
            container.items()
            if isinstance(container, dict)
            else enumerate(container)
            if isinstance(container, list)
            else ()
        )
        for key, value in inside:
            places.append((container, key))
            waiting.append(value)
    return places


def as_json(rng: random.Random, document: Any) -> bytes:
    """Its text, at times with damaged bytes."""
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    return mutated_bytes(rng, content) if rng.random() < 0.1 else content


def as_toml(rng: random.Random, document: Any) -> bytes:
    """Inline all below the top: every value in one line, at times with damaged bytes."""
    lines = (
        [f"{json.dumps(str(key))} = {_toml(value)}" for key, value in document.items()]
        if isinstance(document, dict)
        else ["x"]
    )
    content = ("\n".join(lines) + "\n").encode("utf-8", "replace")
    return mutated_bytes(rng, content) if rng.random() < 0.2 else content


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return "2026-01-01" if value is None else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
