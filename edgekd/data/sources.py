"""Sources: an image folder, a parquet file or a Python function, each as a list of encoded or decoded samples."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from edgekd.errors import DataError, nearest
from edgekd.imports import load_function

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """One split before decoding: `read(i)` gives sample i as stored, `name(i)` what to call it.

    A sample is encoded (bytes of an image file) or, from a Python function, already uint8 `[h, w, channels]`.
    """

    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    read: Callable[[int], bytes | Pixels]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)


def open_source(reference: str, split: str, column: str | None = None, label: str | None = None) -> Source:
    """The samples of `data.train` or `data.test`: a path, or a `python:` reference; `column` and `label` are where parquet
    holds the images and the labels; a function is called with the split, and with `label` where one is asked for.

    Raises DataError where there is nothing to read, a column is missing, or a label is no class.
    """
    path = Path(reference)
    asked = column if reference.startswith("python:") else column or label if path.is_dir() else None
    if asked is not None:
        raise DataError(f"data.{split} = '{reference}' has no columns, of which '{asked}' is asked for; give parquet")
    if reference.startswith("python:"):
        source = _from_function(reference, split, label)
    elif path.is_dir():
        source = _from_folder(path)
    elif path.is_file():
        source = _from_parquet([path], column, label)
    elif "*" in path.name and (files := sorted(path.parent.glob(path.name))):
        source = _from_parquet(files, column, label)
    else:
        raise DataError(
            f"data.{split} = '{reference}': no such file or folder; give an image folder (one folder a class), "
            f"a parquet file, or python:module:function (--set data.{split}=...)"
        )
    _check_labels(source, f"data.{split} = '{reference}'")
    if split == "test":
        check_classes(source.labels, source.classes, f"data.test = '{reference}'")
    return source


def _check_labels(source: Source, where: str) -> None:
    if len(source) == 0:
        raise DataError(f"{where}: no samples")
    if source.labels.min() < 0 or source.labels.max() >= len(source.classes):
        bad = int(np.argmax((source.labels < 0) | (source.labels >= len(source.classes))))
        raise DataError(
            f"{where}: {source.name(bad)} has label {source.labels[bad]}, but there are {len(source.classes)} classes "
            f"(0 to {len(source.classes) - 1}); mend the label, or the class names"
        )


def check_classes(labels: npt.NDArray[np.int64], classes: tuple[str, ...], where: str, *, known: int = 0) -> None:
    """Raise DataError for a class without samples; the first `known` may lack them."""
    counts = np.bincount(labels, minlength=len(classes))
    empty = [classes[i] for i in np.flatnonzero(counts == 0) if i >= known]
    if empty:
        raise DataError(f"{where}: no sample of class {', '.join(empty)}; add some, or remove the class")


def decode_image(sample: bytes | Pixels, size: tuple[int, int] | None = None) -> Pixels:
    """A sample as uint8 `[h, w, channels]`, resized to `size` (height, width) where given.

    Raises ValueError with the reason where it is no image.
    """
    if not isinstance(sample, bytes):
        if size in (None, sample.shape[:2]):
            return sample
        return _pixels(Image.fromarray(sample.squeeze(-1) if sample.shape[-1] == 1 else sample), size)
    try:
        with Image.open(io.BytesIO(sample)) as image:
            if image.mode.startswith("I"):
                raise ValueError("it has more than 8 bits a channel; convert it to 8")
            return _pixels(image.convert("RGB"), size)
    except UnidentifiedImageError as error:
        # Pillow's own text holds the address of a BytesIO, which differs from run to run.
        raise ValueError("not an image that Pillow knows") from error
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _pixels(image: Image.Image, size: tuple[int, int] | None) -> Pixels:
    if size is not None and (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _from_folder(folder: Path) -> Source:
    classes = tuple(
        sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    )
    if not classes:
        raise DataError(f"{folder}: no class folders; an image folder holds one folder a class, with the images inside")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(file for file in (folder / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        files += found
        labels += [label] * len(found)

    def name_of(i: int) -> str:
        return str(files[i])

    return Source(np.array(labels, np.int64), classes, lambda i: files[i].read_bytes(), name_of)


def _from_parquet(files: list[Path], column: str | None, label: str | None) -> Source:
    tables = [_read_parquet(file) for file in files]
    where = [(file, row) for file, table in zip(files, tables, strict=True) for row in range(len(table))]
    image, label = _columns(files[0], tables[0].schema, column, label)
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise DataError(f"{files[0]} and its neighbours have different columns ({error})") from error
    encoded = pc.struct_field(table[image], "bytes")
    values = table[label].to_numpy()
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{files[0]}: column {label} is {table.schema.field(label).type}; it must hold whole numbers")
    labels = values.astype(np.int64)
    classes = _class_names(table.schema, label) or tuple(str(i) for i in range(int(labels.max(initial=-1)) + 1))

    def name_of(i: int) -> str:
        return f"{where[i][0]} row {where[i][1]}"

    def read(i: int) -> bytes:
        return bytes(encoded[i].as_py() or b"")

    return Source(labels, classes, read, name_of)


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a parquet file that can be read ({error})") from error


def _columns(path: Path, schema: pa.Schema, column: str | None, label: str | None) -> tuple[str, str]:
    """The names of the image and the label column."""
    names = schema.names
    for asked in (column, label):
        if asked is not None and asked not in names:
            raise DataError(f"{path}: no column {asked}{nearest(asked, names)}")
    image = column or next((name for name in IMAGE_COLUMNS if name in names), None)
    label = label or next((name for name in LABEL_COLUMNS if name in names), None)
    if image is None or label is None:
        wanted = "image or img (a struct of bytes and path)" if image is None else "label"
        raise DataError(f"{path}: no column {wanted}; its columns are {', '.join(names)}")
    kind = schema.field(image).type
    if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise DataError(f"{path}: column {image} is {kind}; it must be a struct with the field bytes")
    return image, label


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Class names that Hugging Face's `datasets` leaves in the schema's metadata."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return tuple(metadata.get("info", {}).get("features", {}).get(label, {}).get("names", ()))


def _from_function(reference: str, split: str, label: str | None) -> Source:
    function = load_function(reference)
    where = f"data.{split} = '{reference}'"
    asked = (split,) if label is None else (split, label)
    try:
        result: Any = function(*asked)
    except Exception as error:  # a user's function may raise anything
        raise DataError(
            f"{where}: the function failed when called with {', '.join(map(repr, asked))}: {type(error).__name__}: {error}"
        ) from error
    try:
        images, labels, classes = result
        images, labels = np.asarray(images), np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: the function must return (images, labels, class names); it returned {type(result).__name__}"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"{where}: images must be uint8 [n, h, w, channels]; they are {images.dtype} {list(images.shape)}"
        )
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: labels must be {len(images)} whole numbers; they are {labels.dtype} {list(labels.shape)}"
        )
    return Source(
        labels.astype(np.int64),
        tuple(str(c) for c in classes),
        lambda i: images[i],
        lambda i: f"{reference} sample {i}",
    )


__all__ = ["Pixels", "Source", "decode_image", "open_source"]
