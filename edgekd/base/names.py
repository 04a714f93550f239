"""Checks of names that become a folder, a line of a file or a word on a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LONGEST_FOLDER = 200  # bytes: a draft's name is longer, and no file system takes more than 255
LONGEST_TEXT = 2000
LONGEST_CLASS = 500
JOINERS = "\u200c\u200d"  # needed in Persian, Hindi and others; all other characters of category Cf hide or turn text
RESERVED = re.compile(
    r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE
)  # devices on Windows, where a bundle may go


def hidden(text: str) -> str | None:
    """The first character that a terminal does not show, as U+XXXX; None if all are shown.

    These are control and direction characters, line breaks and lone surrogates.
    """
    for letter in text:
        kind = unicodedata.category(letter)
        if kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and letter not in JOINERS):
            return f"U+{ord(letter):04X}"
    return None


def visible(text: str) -> str:
    """The text for a terminal: invisible characters become escapes with their number; line breaks stay."""
    return text if text.isascii() and text.isprintable() else "".join(map(_seen, text))


def in_a_line(text: str) -> str:
    """The text on one line of a terminal: as `visible`, with line breaks as `\\n`."""
    return visible(text).replace("\n", "\\n")


def _seen(letter: str) -> str:
    return (
        letter
        if letter == "\n" or hidden(letter) is None
        else letter.encode("unicode_escape", "surrogatepass").decode()
    )


def text_problem(text: str, longest: int = LONGEST_TEXT) -> str:
    """The problem with a text that is shown or names a file; empty if the text is fine."""
    if len(text) > longest:
        return f"it has {len(text):,} characters; at most {longest} are possible"
    letter = hidden(text)
    return f"it holds the character {letter}, which cannot be seen; leave it out" if letter else ""


def folder_problem(name: str) -> str:
    """The problem with the name of a folder; empty if the name is fine."""
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
    """The problem with the first bad class name; empty if all class names are fine."""
    for n, name in enumerate(names):
        if not isinstance(name, str):
            return f"the name of class {n} is {type(name).__name__}; it must be a text"
        problem = "it is empty" if not name.strip() else text_problem(name, LONGEST_CLASS)
        if problem:
            return f"the name of class {n}, {name[:60]!a}: {problem}"
    return ""
