"""[data] with input = "audio": the keys of sounds, from the file's rate to the log-mel spectrogram of the graph."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edgekd.base.contents import SOUND_SUFFIXES
from edgekd.base.texts import Text
from edgekd.recipe.data import AnyData, AnySource, Mixing, Reading
from edgekd.recipe.section import NonNegative, Positive, Section

MOST_HZ = 768_000
MOST_SAMPLES = 1 << 24  # of one sound: 17 minutes at 16 kHz
LARGEST_WINDOW = 1 << 14  # samples; a kernel of the graph holds its square


class AudioAugmentation(Mixing):
    """The changes from a stored sound to a training view. A view replays exactly (see edgekd.data.views).

    All of them change the waveform, so that each view is a sound that a device could be given. The masks are those of
    SpecAugment (Park et al. 2019, 1904.08779) in that form: a silent stretch, and a band without any tone.
    """

    references = frozenset({"noise"})
    suffixes = SOUND_SUFFIXES

    speed: NonNegative = Field(
        default=0.0,
        le=0.5,
        description="largest change of speed and pitch, up or down, as a share; 0.1: 0.9 to 1.1 times",
    )
    shift_ms: NonNegative = Field(
        default=0.0, le=60_000, description="largest shift to either side in ms; zeros come in"
    )
    gain_db: NonNegative = Field(default=0.0, le=60, description="largest gain, up or down, in dB")
    noise: Text | None = Field(
        default=None, description="file, or folder of files, of sounds that are added; none: no noise"
    )
    noise_snr_db: tuple[float, float] = Field(
        default=(5.0, 20.0), description="least and largest ratio of sound to noise, in dB"
    )
    time_mask: int = Field(default=0, ge=0, le=1 << 15, description="largest silent stretch, in frames of hop_length")
    freq_mask: int = Field(default=0, ge=0, le=1 << 10, description="largest band without a tone, in mel bands")

    @model_validator(mode="after")
    def _ratios_are_in_order(self) -> Self:
        low, high = self.noise_snr_db
        if low > high:
            raise ValueError(f"noise_snr_db = [{low:g}, {high:g}] given; write the lower ratio first")
        return self


class AudioReading(Reading):
    """The settings for reading sounds."""

    input: Literal["audio"] = Field(description='the kind of the samples; "audio": sounds')
    column: Text | None = Field(default=None, description="column of the sounds in parquet; none: audio")
    sample_rate: int = Field(ge=1, le=MOST_HZ, description="samples per second, of every file and on the device")
    seconds: Positive | None = Field(
        default=None,
        le=3600,
        description="length: longer sounds are cut, shorter ones get zeros at the end; none: their own, which must be one",
    )
    resample: bool = Field(
        default=False, description="true: files of another rate are resampled (soxr); false: they are refused"
    )
    mono: Literal["mean", "left", "right"] | None = Field(
        default=None, description="what becomes of two channels; none: they are refused"
    )

    @property
    def samples(self) -> int | None:
        """The number of samples of a sound; None: that of the files."""
        return None if self.seconds is None else max(1, round(self.seconds * self.sample_rate))


class AudioSource(AudioReading, AnySource):
    """A split of sounds with its settings for reading."""

    suffixes = SOUND_SUFFIXES
    libraries = ("soundfile", "soxr")


class Mel(Section):
    """The settings of the spectrogram: what the graph computes of a waveform before the network."""

    n_fft: int = Field(
        default=512, ge=8, le=LARGEST_WINDOW, multiple_of=2, description="samples of a window, a Hann window; even"
    )
    hop_length: int = Field(default=160, ge=1, le=LARGEST_WINDOW, description="samples from window to window")
    n_mels: int = Field(default=40, ge=1, le=1 << 10, description="mel bands (HTK scale, without norm)")
    f_min: NonNegative = Field(default=20.0, description="lowest frequency of the mel bands, in Hz")
    f_max: Positive | None = Field(default=None, description="highest frequency, in Hz; none: half of sample_rate")
    n_mfcc: int = Field(default=0, ge=0, le=1 << 10, description="coefficients of MFCC; 0: the log-mel spectrogram")


class AudioData(AudioReading, Mel, AnyData):
    """Sounds: the samples, the hold-out split, the spectrogram and augmentation."""

    source_of = AudioSource
    suffixes = SOUND_SUFFIXES

    augment: AudioAugmentation = Field(default=AudioAugmentation(), description="augmentation of the training sounds")

    @property
    def highest(self) -> float:
        """The upper end of the mel bands, in Hz."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @model_validator(mode="after")
    def _sounds_are_recorded(self) -> Self:
        if self.is_synthetic:
            raise ValueError(f"train = {self.train!r} makes images; give recorded sounds")
        return self

    @model_validator(mode="after")
    def _the_bands_fit(self) -> Self:
        if self.highest > self.sample_rate / 2:
            raise ValueError(
                f"f_max = {self.highest:g} given; sounds of {self.sample_rate} Hz hold up to {self.sample_rate / 2:g} Hz"
            )
        if self.f_min >= self.highest:
            raise ValueError(f"f_min = {self.f_min:g} given; it must lie below f_max, {self.highest:g}")
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc = {self.n_mfcc} given; of {self.n_mels} mel bands there are at most as many")
        if self.hop_length > self.n_fft:
            raise ValueError(
                f"hop_length = {self.hop_length} given; beyond n_fft = {self.n_fft} samples between windows are unread"
            )
        if (self.samples or 0) > MOST_SAMPLES:
            raise ValueError(f"seconds = {self.seconds:g} given; a sound has at most {MOST_SAMPLES:,} samples")
        return self
