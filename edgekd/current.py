"""Is a bundle still what its recipe would build? Answered without importing torch, so that a second build is quick."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgekd import __version__
from edgekd.recipe import Recipe
from edgekd.report.model import Report
from edgekd.stage import Cache, hash_file
from edgekd.target import Target

LIBRARIES = ("torch", "torchao", "onnx", "onnxscript", "onnxruntime", "accelerate", "numpy", "pillow", "pyarrow")


def fingerprint(recipe: Recipe, target: Target, cache: Cache) -> str:
    """The hash of all that a bundle is made of: recipe, files that it names, target, edgekd and libraries."""
    made_of = [
        __version__,
        {name: _version(name) for name in LIBRARIES},
        cache.describe(recipe),
        cache.describe(target),
    ]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def current_report(folder: Path, made_of: str) -> Report | None:
    """The report of the bundle in `folder` if it was made of this and no byte of it has changed since, else None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest.get("fingerprint") != made_of:
            return None
        if any(hash_file(folder / name) != digest for name, digest in manifest["files"].items()):
            return None
        return Report.model_validate_json((folder / "report.json").read_bytes())
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
