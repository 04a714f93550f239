"""Pictures: `as_pixels` turns any picture that Pillow opens into uint8 `[height, width, channels]`, by one rule.

    orientation       turned as the EXIF data says
    16 bits a value   the upper 8 bits, for grey and for colour (Pillow does that itself for colour, but rounds for PPM)
    float, 32 bits    refused, because no value is known as white; LAB is refused too: not every Pillow converts it
    alpha             left out; the colours stay as they are stored
    other modes       (palette, CMYK, YCbCr, 1 bit, grey) become three channels of colour, or one of luma (ITU-R 601)
    another size      resized last, with Pillow's bilinear filter, which averages when it shrinks a picture

run.py, which ships alone, holds the same rule in the same lines; tests/scripts/test_pictures.py compares the bytes of each kind.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # value of the EXIF tag -> Pillow's number of the transposition
TELLS_ORIENTATION = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # keys of a picture's `info`


def as_pixels(image: Image.Image, channels: int = 3, size: tuple[int, int] | None = None) -> Pixels:
    """The pixels of an opened picture, `channels` 1 or 3, resized to `size` (height, width).

    Raises ValueError for values without a known white. Errors that Pillow raises while it reads pass through.
    """
    turn = turn_of(image)
    image = eight_bits(image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode == "LAB":
        raise ValueError("it is in LAB; convert it to RGB")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same colours; a direct conversion makes Pillow warn
    if image.mode != mode:
        image = image.convert(mode)
    if turn is not None:
        image = image.transpose(turn)
    if size is not None and (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def turn_of(image: Any) -> Any:
    """The transposition that a picture's EXIF orientation asks for; None without one, or if the EXIF data is damaged.

    The whole picture is read for that.
    """
    image.load()
    if not (TELLS_ORIENTATION & image.info.keys() or image.format == "TIFF"):
        return None
    try:
        return TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # Pillow raises many kinds of errors
        return None


def eight_bits(image: Any) -> Any:
    """The picture with 8 bits a value: of 16 bits the upper 8 stay. Raises ValueError for values without a known white."""
    if image.mode[0] not in "IF":
        return image
    # 16-bit grey has mode "I;16". In some formats and releases of Pillow it has mode "I", whose values can be larger.
    values = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(
            f"its values are {values.dtype}, of which none is known as white; convert it to 8 bits a channel"
        )
    return Image.fromarray((np.clip(values, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8))


def decode_image(sample: bytes | Pixels, size: tuple[int, int] | None = None, channels: int | None = None) -> Pixels:
    """A sample as uint8 `[h, w, channels]` (`as_pixels`), resized to `size` (height, width) if given.

    channels: 1 or 3; none: 3 for a file, an array's own number. Raises ValueError with the reason if the sample is not an
    image.
    """
    if not isinstance(sample, bytes):
        if size in (None, sample.shape[:2]) and channels in (None, sample.shape[-1]):
            return sample
        if sample.shape[-1] not in (1, 3):
            raise ValueError(
                f"it has {sample.shape[-1]} channels; images of 1 or 3 can be resized or given other channels"
            )
        image = Image.fromarray(sample.squeeze(-1) if sample.shape[-1] == 1 else sample)
        return as_pixels(image, channels or sample.shape[-1], size)
    try:
        with Image.open(io.BytesIO(sample)) as image:
            return as_pixels(image, channels or 3, size)
    except UnidentifiedImageError as error:
        # Pillow's own text holds the address of a BytesIO, which differs from run to run.
        raise ValueError("not an image that Pillow knows") from error
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
