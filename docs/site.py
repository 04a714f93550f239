"""A hook of mkdocs (mkdocs.yml): the README, the benchmarks and the change log become pages, and names of pages become links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "benchmarks.md": "benchmarks/README.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside docs/."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to README.md and benchmarks/README.md lead to their pages, and `docs/NAME.md` in the text is a link."""
    for target, source in PAGES.items():
        markdown = markdown.replace(f"](../{source})", f"]({target})")
    return re.sub(r"`docs/([\w-]+\.md)`", r"[`\1`](\1)", markdown)
