"""Text, Shown, FolderName: fields of recipes and targets, checked by edgekd.base.names."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from edgekd.base.names import folder_problem, text_problem


def _shown(text: str) -> str:
    if problem := text_problem(text):
        raise ValueError(f"{text[:60]!a} given; {problem}")
    return text


def _folder(name: str) -> str:
    if problem := folder_problem(name):
        raise ValueError(f"{name[:60]!a} given; {problem}")
    return name


Shown = Annotated[str, AfterValidator(_shown)]
"""A field whose text is shown or names a file."""
Text = Annotated[str, Field(min_length=1), AfterValidator(_shown)]
"""As `Shown`, and not empty."""
FolderName = Annotated[str, AfterValidator(_folder)]
"""A field that names a folder."""
