"""Checkpoint: the parts of a training on disk. A kill leaves the old file or the new file, never half a file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgekd.base.console import say
from edgekd.base.contents import write_atomically


class Checkpoint:
    """The states of `parts` and further values, in the file `path`.

    A part is any object with `state_dict` and `load_state_dict`.
    """

    def __init__(self, path: Path, parts: Mapping[str, Any]) -> None:
        self.path = path
        self.parts = parts

    def save(self, **beside: Any) -> None:
        content = io.BytesIO()
        torch.save({**{name: part.state_dict() for name, part in self.parts.items()}, **beside}, content)
        self.path.parent.mkdir(exist_ok=True)
        write_atomically(self.path, content.getvalue())

    def load(self) -> dict[str, Any]:
        """Restore the parts and return the values saved with them. Empty if the file is missing or damaged."""
        if not self.path.exists():
            return {}
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # on a damaged file torch raises many kinds of errors
            say(f"  the checkpoint is damaged ({type(error).__name__}): training from the start")
            return {}
        for name, part in self.parts.items():
            part.load_state_dict(saved.pop(name))
        return dict(saved)
