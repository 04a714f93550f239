"""Image: pictures of one size, as bytes. Code that only concerns images belongs in this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.base.draws import Floats, Ids, integers, uniform
from edgekd.errors import DataError
from edgekd.inputs.files import Files, Shapes
from edgekd.inputs.jitter import jittered
from edgekd.inputs.picture import Pixels, decode_image
from edgekd.inputs.protocol import Arrays, Field
from edgekd.recipe import Augmentation, Data, Source

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from edgekd.inputs.normalise import Normalise

AS_THEY_ARE = Augmentation()
INPUT = "input"  # the name of the pixels, in the loop and in the graph


@dataclass(frozen=True)
class Image:
    """Images uint8 of `shape` (height, width, channels). A network reads `(x / 255 - mean) / std` of each channel."""

    shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    augment: Augmentation = AS_THEY_ARE

    @classmethod
    def of(cls, shapes: Mapping[str, list[int]], data: Data) -> Image:
        """The images of a decoded split, as the recipe normalises and augments them."""
        height, width, channels = shapes[INPUT]
        return cls((height, width, channels), data.mean, data.std, data.augment)

    @property
    def noun(self) -> str:
        return "images"

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field(INPUT, "uint8", self.shape),)

    @property
    def arguments(self) -> tuple[Field, ...]:
        height, width, channels = self.shape
        return (Field(INPUT, "float32", (channels, height, width)),)

    @property
    def offers(self) -> Mapping[str, int]:
        return {"in_channels": self.shape[2]}

    def mistakes(self) -> Mapping[str, str]:
        """Mistakes for a normalisation of another number of channels, and for a crop larger than the images."""
        found, (height, width, channels) = {}, self.shape
        if len(self.mean) not in (1, channels):
            have = f"{channels} channel{'s' * (channels > 1)}"
            found["mean"] = (
                f"and std have {len(self.mean)} values, the images {have}; give 1{f' or {channels}' * (channels > 1)}"
            )
        if self.augment.fill is not None and len(self.augment.fill) not in (1, channels):
            found["augment.fill"] = f"has {len(self.augment.fill)} values for {channels} channels; give 1 or {channels}"
        if (padding := self.augment.crop_padding) > min(height, width):
            found["augment.crop_padding"] = (
                f"is {padding}, the images are {min(height, width)} pixels wide or high; give less"
            )
        return found

    def read(self, stored: bytes | Pixels) -> Arrays:
        """The pixels uint8 `[h, w, channels]` of an encoded image or of an array."""
        return {INPUT: decode_image(stored, self.shape[:2], self.shape[2])}

    def view(self, raw: Arrays, ids: Ids, view: int, seed: int) -> Arrays:
        """The images after colour jitter, padding, crop, flip and cut-out, as `augment` says."""
        images = raw[INPUT]
        if self.augment.jitter:  # before the padding, whose black is no part of the picture
            images = jittered(images, ids, self.augment.jitter, view, seed)
        images = self.moved(images, ids, view, seed, 0)
        if self.augment.cutout:
            images = self._cut_out(images, ids, view, seed)
        return {INPUT: images}

    def moved(self, maps: NDArray[Any], ids: Ids, view: int, seed: int, outside: int) -> NDArray[Any]:
        """Images or maps of labels, `[n, h, w, ...]`, after padding with `outside`, crop and flip."""
        n, height, width = maps.shape[:3]
        if pad := self.augment.crop_padding:
            edges = ((0, 0), (pad, pad), (pad, pad), *[(0, 0)] * (maps.ndim - 3))
            maps = np.pad(maps, edges, constant_values=outside)
        rows = np.arange(height) + integers(ids, 2 * pad + 1, seed, view, 0)[:, None]
        columns = np.arange(width) + integers(ids, 2 * pad + 1, seed, view, 1)[:, None]
        if self.augment.flip:
            flipped = uniform(ids, seed, view, 2) < 0.5
            columns = np.where(flipped[:, None], columns[:, ::-1], columns)
        if pad or self.augment.flip:
            maps = maps[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return maps

    def _cut_out(self, images: Pixels, ids: Ids, view: int, seed: int) -> Pixels:
        _, height, width, channels = images.shape
        side = self.augment.cutout
        top = integers(ids, height, seed, view, 3)[:, None] - side // 2
        left = integers(ids, width, seed, view, 4)[:, None] - side // 2
        rows, columns = np.arange(height), np.arange(width)
        inside = ((rows >= top) & (rows < top + side))[:, :, None] & ((columns >= left) & (columns < left + side))[
            :, None, :
        ]
        fill = self.augment.fill or self.mean
        colour = np.rint(np.broadcast_to(fill, channels) * 255).astype(np.uint8)
        return np.where(inside[..., None], colour, images)

    def mixed(self, raw: Arrays, partners: Arrays, share: Floats) -> Arrays:
        """The weighted sums of images and partners, rounded to bytes.

        Teacher and student so see bytes, as the device will.
        """
        weight = share.astype(np.float32)[:, None, None, None]
        return {INPUT: np.rint(weight * raw[INPUT] + (1 - weight) * partners[INPUT]).astype(np.uint8)}

    def preprocess(self) -> Normalise:
        """uint8 `[n, h, w, channels]` to float32 `[n, channels, h, w]`, in channels_last."""
        from edgekd.inputs.normalise import Normalise, per_channel

        channels = self.shape[2]
        return Normalise(per_channel(self.mean, channels), per_channel(self.std, channels))


def decoded(stored: bytes | Pixels, source: Source) -> tuple[Arrays, tuple[str, ...]]:
    """The pixels of an image as it was stored, of the size and channels that the source asks for; there are no remarks."""
    return {INPUT: decode_image(stored, source.size, source.channels)}, ()


def another_shape(name: str, sample: Arrays, first: Shapes) -> str:
    """The error text for the image `name`, whose size differs from that of the first image."""
    (height, width, channels), shape = sample[INPUT].shape, first[INPUT]
    return (
        f"{name} is {width}x{height} with {channels} channels, the first image of train is {shape[1]}x{shape[0]} with "
        f"{shape[2]}; set data.size = [height, width]"
    )


def given(samples: Any, where: str) -> Sequence[Any]:
    """The images that a python function gave. Raises DataError for what is none."""
    images = np.asarray(samples)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"{where}: images must be uint8 [n, h, w, channels]; they are {images.dtype} {list(images.shape)}"
        )
    return list(images)


FILES = Files(
    one="image",
    many="images",
    columns=("image", "img"),
    suffixes=Source.suffixes,
    value_bytes=1,
    decoded=decoded,
    another_shape=another_shape,
    given=given,
)
