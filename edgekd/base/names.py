"""Checks of names that become a folder, a line of a file or a word on a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LONGEST_FOLDER = 200  # bytes: a draft's name is longer, and no file system takes more than 255
LONGEST_TEXT = 2000
LONGEST_CLASS = 500
JOINERS = "\u200c\u200d"  # they shape Persian, Hindi and others; everything else of their kind hides or turns text
RESERVED = re.compile(
    r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE
)  # devices on Windows, where a bundle may go


def hidden(text: str) -> str | None:
    """The first character that a terminal does not show: control, direction, line break, half a pair."""
    for letter in text:
        kind = unicodedata.category(letter)
        if kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and letter not in JOINERS):
            return f"U+{ord(letter):04X}"
    return None


def visible(text: str) -> str:
    """The same text for a terminal: what cannot be seen stands as its number; line breaks stay."""
    return text if text.isascii() and text.isprintable() else "".join(map(_seen, text))


def in_a_line(text: str) -> str:
    """The same text as part of a line: line breaks stand as what they are written as."""
    return visible(text).replace("\n", "\\n")


def _seen(letter: str) -> str:
    return (
        letter
        if letter == "\n" or hidden(letter) is None
        else letter.encode("unicode_escape", "surrogatepass").decode()
    )


def text_problem(text: str, longest: int = LONGEST_TEXT) -> str:
    """What is wrong with a text that is shown or names a file; empty where nothing is."""
    if len(text) > longest:
        return f"it has {len(text):,} characters; at most {longest} are possible"
    letter = hidden(text)
    return f"it holds the character {letter}, which cannot be seen; leave it out" if letter else ""


def folder_problem(name: str) -> str:
    """What is wrong with a name that a folder of its own is called by; empty where nothing is."""
    if not name.strip(". "):
        return "a name is needed that is no dots and spaces alone"
    if "/" in name or "\\" in name:
        return "it names a folder, so it has no / or \\"
    if RESERVED.fullmatch(name):
        return "it is the name of a device on Windows; choose another"
    if name[-1] in ". " or name[0] == " ":
        return "it starts or ends with a space or a dot, which some file systems drop"
    if text := text_problem(name):
        return text
    length = len(name.encode())
    return f"it has {length} bytes; at most {LONGEST_FOLDER} are possible" if length > LONGEST_FOLDER else ""


def class_problem(names: Iterable[object]) -> str:
    """What is wrong with class names, of which the first that is wrong is told; empty where nothing is."""
    for n, name in enumerate(names):
        if not isinstance(name, str):
            return f"the name of class {n} is {type(name).__name__}; it must be a text"
        problem = "it is empty" if not name.strip() else text_problem(name, LONGEST_CLASS)
        if problem:
            return f"the name of class {n}, {name[:60]!a}: {problem}"
    return ""
