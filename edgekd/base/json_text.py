"""parse_json: JSON that others wrote; one that is nested too deep is a ValueError, as any other mistake is."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value; NaN and infinities are read, as Python writes them. Raises ValueError for what is no JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
