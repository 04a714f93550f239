"""Files: how the samples of a kind of input are stored, and the words for them, for sources and the decoded store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.base.tables import Table
from edgekd.inputs.protocol import Arrays

Shapes = Mapping[str, tuple[int, ...]]  # field -> shape of one sample


@dataclass(frozen=True)
class Learning:
    """What a kind learns of all training samples before one is decoded, as the statistics of a table's columns.

    of: the stored samples of train and the settings for reading -> facts; facts: their form, which meta.json holds. The
    decoder and the input get them as a further argument, for train and test alike.
    """

    facts: type[Table]
    of: Callable[[Sequence[Any], Any], Table]


@dataclass(frozen=True)
class Files:
    """How the samples of a kind are stored.

    one, many      the words for a sample: "image", "images"
    columns        names that the column of samples has in parquet, if the recipe names none
    suffixes       of the files in a class folder; None: those of images
    value_bytes    bytes of a decoded value
    decoded        one stored sample and the settings for reading -> its arrays, and remarks that complete "3 of 9 images ...";
                   raises ValueError with the reason if the sample cannot be decoded
    another_shape  name, arrays, shapes of the first sample -> the error text for a sample of another shape
    given          what a python function returned, and its place in words -> the samples; raises DataError
    learning       what is learnt of the training samples first; such samples are rows of columns, not files
    """

    one: str
    many: str
    columns: tuple[str, ...]
    suffixes: frozenset[str] | None
    value_bytes: int
    decoded: Callable[..., tuple[Arrays, tuple[str, ...]]]
    another_shape: Callable[[str, Arrays, Shapes], str]
    given: Callable[[Any, str], Sequence[Any]]
    learning: Learning | None = None
