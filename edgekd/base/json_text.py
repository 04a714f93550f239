"""parse_json: reads JSON from other programs. Text that is nested too deep is a ValueError, like any other mistake."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. NaN and infinities are read as Python writes them. Raises ValueError for other text."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
