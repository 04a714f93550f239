"""fingerprint: tells whether a bundle is still up to date with its recipe.

torch is not imported for the answer, so that a second build is quick.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache as once
from pathlib import Path

from edgekd.base.contents import hash_file
from edgekd.base.json_text import parse_json
from edgekd.base.user_code import version_of
from edgekd.base.version import VERSION
from edgekd.cache.stage import Cache
from edgekd.figures.figures import Report
from edgekd.recipe import Recipe
from edgekd.target import Target

LIBRARIES = (
    "torch", "torchao", "onnx", "onnxscript", "onnxruntime", "accelerate", "ml_dtypes", "numpy", "pillow", "pyarrow", "safetensors",
)  # fmt: skip


def fingerprint(recipe: Recipe, target: Target, cache: Cache) -> str:
    """The hash of a bundle's origins: recipe, files that the recipe names, target, edgekd's code and libraries.

    A build asks before and after its stages; both times `cache` answers with the file contents of its first reading.
    """
    seen = (recipe.data, *(recipe.task_data(task) for task in recipe.tasks))
    samples = [(data.source("train"), data.source("test")) for data in seen]
    made_of = [
        VERSION,
        _code(),
        {name: version_of(name) for name in LIBRARIES},
        cache.describe(recipe),
        cache.describe(samples),
        cache.describe(target),
    ]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def current_report(folder: Path, made_of: str) -> Report | None:
    """The report of the bundle in `folder`; None if its fingerprint differs from `made_of` or a byte has changed."""
    try:
        manifest = parse_json((folder / "manifest.json").read_text())
        if manifest.get("fingerprint") != made_of:
            return None
        if any(hash_file(folder / name) != digest for name, digest in manifest["files"].items()):
            return None
        return Report.model_validate_json((folder / "report.json").read_bytes())
    except (OSError, ValueError, KeyError, AttributeError):
        return None


@once
def _code() -> str:
    """The hash of edgekd's own files: after a change of edgekd a build measures and packages again."""
    package = Path(__file__).parent.parent
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".j2", ".toml"))
    return hashlib.sha256(
        b"".join(f"{path.relative_to(package)}".encode() + path.read_bytes() for path in files)
    ).hexdigest()
