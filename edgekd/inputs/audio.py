"""Audio: sounds of one length, as waveforms. Code that only concerns sounds belongs here and in the files that this one imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.base.draws import Floats, Ids
from edgekd.errors import DataError
from edgekd.inputs.files import Files, Shapes
from edgekd.inputs.protocol import Arrays, Field
from edgekd.inputs.sound import decode_sound
from edgekd.inputs.sound_views import changed, noises
from edgekd.inputs.spectrum import mel_filters
from edgekd.recipe import AudioData, AudioReading, AudioSource

if TYPE_CHECKING:  # importing torch takes seconds; a command that only reads figures would wait for it
    from edgekd.inputs.mel import LogMel

WAVEFORM = "waveform"


@dataclass(frozen=True)
class Audio:
    """Waveforms float32 `[samples]` in -1..1. A network reads their log-mel spectrogram or MFCC, as `data` says."""

    samples: int
    data: AudioData

    @classmethod
    def of(cls, shapes: Mapping[str, list[int]], data: AudioData) -> Audio:
        """The sounds of a decoded split, as the recipe reads and augments them."""
        return cls(shapes[WAVEFORM][0], data)

    @property
    def noun(self) -> str:
        return "sounds"

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field(WAVEFORM, "float32", (self.samples,)),)

    @property
    def arguments(self) -> tuple[Field, ...]:
        bands, frames = self.data.n_mfcc or self.data.n_mels, self.samples // self.data.hop_length + 1
        return (Field("spectrogram", "float32", (1, bands, frames)),)

    @property
    def offers(self) -> Mapping[str, int]:
        return {"in_channels": 1}

    def mistakes(self) -> Mapping[str, str]:
        """Mistakes for mel bands that no frequency of the DFT falls in, masks beyond the spectrogram, and unusable noise."""
        data, found = self.data, {}
        filters = mel_filters(data.sample_rate, data.n_fft, data.n_mels, data.f_min, data.highest)
        if empty := int((filters.max(1) == 0).sum()):
            found["n_mels"] = (
                f"is {data.n_mels}: {empty} of the bands lie between two frequencies of a window of {data.n_fft} samples; "
                "give fewer bands, a larger n_fft or a higher f_min"
            )
        frames = self.samples // data.hop_length + 1
        for key, most, of in (("time_mask", frames, "frames"), ("freq_mask", data.n_mels, "mel bands")):
            if (given := getattr(data.augment, key)) > most:
                found[f"augment.{key}"] = f"is {given}, a spectrogram has {most} {of}; give less"
        if data.augment.noise is not None:
            try:
                noises(data.augment.noise, data.sample_rate, data.resample, data.mono)
            except DataError as error:
                found["augment.noise"] = f"cannot be used: {error}"
        return found

    def read(self, stored: Any) -> Arrays:
        """The waveform float32 `[samples]` of a file or of an array."""
        return {WAVEFORM: decode_sound(stored, self.data)[0]}

    def view(self, raw: Arrays, ids: Ids, view: int, seed: int) -> Arrays:
        """The sounds as `augment` changes them."""
        return {WAVEFORM: changed(raw[WAVEFORM], self.data, ids, view, seed)}

    def moved(self, maps: NDArray[Any], ids: Ids, view: int, seed: int, outside: int) -> NDArray[Any]:
        raise TypeError("sounds have no maps")

    def mixed(self, raw: Arrays, partners: Arrays, share: Floats) -> Arrays:
        """The weighted sums of sounds and partners."""
        weight = share.astype(np.float32)[:, None]
        return {WAVEFORM: weight * raw[WAVEFORM] + (1 - weight) * partners[WAVEFORM]}

    def preprocess(self) -> LogMel:
        """float32 `[n, samples]` to float32 `[n, 1, bands, frames]`."""
        from edgekd.inputs.mel import LogMel

        data = self.data
        return LogMel(data.sample_rate, data.n_fft, data.hop_length, data.n_mels, data.f_min, data.highest, data.n_mfcc)


def decoded(stored: Any, reading: AudioReading) -> tuple[Arrays, tuple[str, ...]]:
    """The waveform of a sound as it was stored, with remarks."""
    wave, remarks = decode_sound(stored, reading)
    return {WAVEFORM: wave}, remarks


def another_shape(name: str, sample: Arrays, first: Shapes) -> str:
    """The error text for the sound `name`, whose length differs from that of the first sound."""
    (samples,), (wanted,) = sample[WAVEFORM].shape, first[WAVEFORM]
    return f"{name} has {samples} samples, the first sound of train has {wanted}; set data.seconds"


def given(samples: Any, where: str) -> list[Any]:
    """The sounds that a python function gave, one array each. Raises DataError for what is none."""
    try:
        sounds = [np.asarray(sound) for sound in samples]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: sounds must be arrays; they are {type(samples).__name__} ({error})") from error
    for number, sound in enumerate(sounds):
        if sound.ndim not in (1, 2) or not (sound.dtype == np.int16 or sound.dtype.kind == "f"):
            raise DataError(
                f"{where}: sounds must be int16 or float, [samples] or [samples, channels]; sample {number} is {sound.dtype} "
                f"{list(sound.shape)}"
            )
    return sounds


FILES = Files(
    one="sound",
    many="sounds",
    columns=("audio",),
    suffixes=AudioSource.suffixes,
    value_bytes=4,
    decoded=decoded,
    another_shape=another_shape,
    given=given,
)
