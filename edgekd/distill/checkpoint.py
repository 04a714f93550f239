"""Checkpoint: the parts of a training on disk; a kill leaves the last one or the new one, never half."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgekd.base.console import say
from edgekd.base.contents import write_atomically


class Checkpoint:
    """The state of `parts` (whatever has `state_dict` and `load_state_dict`) and values beside it, in the file `path`."""

    def __init__(self, path: Path, parts: Mapping[str, Any]) -> None:
        self.path = path
        self.parts = parts

    def save(self, **beside: Any) -> None:
        content = io.BytesIO()
        torch.save({**{name: part.state_dict() for name, part in self.parts.items()}, **beside}, content)
        self.path.parent.mkdir(exist_ok=True)
        write_atomically(self.path, content.getvalue())

    def load(self) -> dict[str, Any]:
        """Put the parts back and give what was saved beside them; empty where nothing was, or where the file is damaged."""
        if not self.path.exists():
            return {}
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # on a damaged file torch raises whatever it stumbles over
            say(f"  the checkpoint is damaged ({type(error).__name__}): training from the start")
            return {}
        for name, part in self.parts.items():
            part.load_state_dict(saved.pop(name))
        return dict(saved)
