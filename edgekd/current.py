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
    """The hash of all that a bundle is made of: recipe, files that it names, target, edgekd's code and libraries."""
    made_of = [
        __version__,
        _code(),
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


def _code() -> str:
    """The hash of edgekd itself: what another edgekd found or wrote is looked at again, its stages as their versions say."""
    package = Path(__file__).parent
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".j2", ".toml"))
    return hashlib.sha256(
        b"".join(f"{path.relative_to(package)}".encode() + path.read_bytes() for path in files)
    ).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
