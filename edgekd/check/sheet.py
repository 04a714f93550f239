"""as_jpeg, enlarged: test pictures as one small JPEG, for the report."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

QUALITIES = (88, 75, 60, 45, 30)
LARGEST = 500_000  # bytes; the page holds the file in base64 and has at most 1 MB


def enlarged(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The picture `[h, w, 3]` with `side` pixels on its longer side. A small picture is shown by its pixels."""
    height, width = picture.shape[:2]
    share = side / max(height, width)
    how = Picture.Resampling.NEAREST if share > 1 else Picture.Resampling.BOX
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(Picture.fromarray(picture).resize(size, how))


def as_jpeg(sheet: NDArray[np.uint8]) -> bytes:
    """The sheet `[h, w, 3]` as a JPEG: of the best quality that takes at most `LARGEST` bytes, else of the lowest."""
    written = b""
    for quality in QUALITIES:
        file = io.BytesIO()
        Picture.fromarray(sheet).save(file, "JPEG", quality=quality)
        written = file.getvalue()
        if len(written) <= LARGEST:
            break
    return written
