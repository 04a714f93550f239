"""Inputs: they compute a network's arguments from samples, for the training loop and the exported graph alike."""

from collections.abc import Callable
from dataclasses import dataclass

from edgekd.inputs import audio, image, table
from edgekd.inputs.audio import Audio
from edgekd.inputs.files import Files
from edgekd.inputs.image import Image
from edgekd.inputs.protocol import Arrays, Field, Input
from edgekd.inputs.table import Table


@dataclass(frozen=True)
class Kind:
    """A kind of input. `of` makes it from the field shapes of a decoded split and the recipe's [data] of that kind.

    Where `files.learning` is given, what was learnt of train is its third argument.
    files: how its samples are stored; None for a kind whose splits are written by `edgekd.data.store.write_decoded` alone.
    """

    of: Callable[..., Input]
    files: Files | None = None


INPUTS: dict[str, Kind] = {
    "image": Kind(Image.of, image.FILES),
    "audio": Kind(Audio.of, audio.FILES),
    "table": Kind(Table.of, table.FILES),
}
"""The word of `data.input` -> its kind."""

__all__ = ["INPUTS", "Arrays", "Audio", "Field", "Files", "Image", "Input", "Kind", "Table"]
