"""edgekd: distil a teacher into a small student, quantize it as the device does, export and check it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekd.base.version import VERSION as __version__

__all__ = ["Recipe", "Report", "Target", "__version__", "build", "load_recipe", "load_target"]

if TYPE_CHECKING:
    from edgekd.api import build
    from edgekd.figures.figures import Report
    from edgekd.recipe import Recipe, load_recipe
    from edgekd.target import Target, load_target

_HOMES = {
    "build": "edgekd.api", "Recipe": "edgekd.recipe", "load_recipe": "edgekd.recipe", "Report": "edgekd.figures.figures",
    "Target": "edgekd.target", "load_target": "edgekd.target",
}  # fmt: skip

_PARTS = frozenset({"data", "distill", "export", "measure", "models", "quantize"})


def __dir__() -> list[str]:
    return sorted([*__all__, *_PARTS])


def __getattr__(name: str) -> Any:
    """Imported when first used: `edgekd --help` must not wait for torch."""
    from importlib import import_module

    if name in _PARTS:
        return import_module(f"edgekd.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekd' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
