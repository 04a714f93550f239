"""Sound views: waveforms as a training view changes them. All numbers are drawn by edgekd.base.draws, so a view replays.

The waveform is changed, not the spectrogram: so teacher and student see what a device could hear, and the graph needs no
part that only trains.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekd.base.contents import SOUND_SUFFIXES, files_below
from edgekd.base.draws import Floats, Ids, integers, uniform
from edgekd.errors import DataError
from edgekd.inputs.sound import Wave, decode_sound
from edgekd.inputs.spectrum import mel_corners
from edgekd.recipe import AudioData, AudioReading

Mono = Literal["mean", "left", "right"] | None


def changed(waves: Wave, data: AudioData, ids: Ids, view: int, seed: int) -> Wave:
    """Waveforms float32 `[n, samples]` after speed, shift, gain, noise and masks, in this order, as `data.augment` says."""
    augment, rate = data.augment, data.sample_rate
    if augment.speed:
        waves = at_speed(waves, 1 + augment.speed * (2 * uniform(ids, seed, view, 11) - 1))
    if reach := round(augment.shift_ms * rate / 1000):
        waves = shifted(waves, integers(ids, 2 * reach + 1, seed, view, 0) - reach)
    if augment.gain_db:
        decibels = augment.gain_db * (2 * uniform(ids, seed, view, 1) - 1)
        waves = waves * (10 ** (decibels / 20)).astype(np.float32)[:, None]
    if augment.noise is not None:
        low, high = augment.noise_snr_db
        ratios = low + (high - low) * uniform(ids, seed, view, 4)
        recorded = noises(augment.noise, rate, data.resample, data.mono)
        which, where = integers(ids, len(recorded), seed, view, 2), uniform(ids, seed, view, 3)
        added = np.stack([stretch(recorded[i], at, waves.shape[1]) for i, at in zip(which, where, strict=True)])
        waves = with_noise(waves, added, ratios)
    if augment.time_mask:
        frames = waves.shape[1] // data.hop_length + 1
        first, n = spans(ids, min(augment.time_mask, frames), frames, seed, view, 7)
        waves = silenced(waves, first * data.hop_length, (first + n) * data.hop_length)
    if augment.freq_mask:
        first, n = spans(ids, augment.freq_mask, data.n_mels, seed, view, 9)
        corners = mel_corners(data.n_mels, data.f_min, data.highest)
        waves = without_band(waves, rate, corners[first], np.where(n > 0, corners[first + n + (n > 0)], corners[first]))
    return waves


def at_speed(waves: Wave, factors: Floats) -> Wave:
    """Each waveform played `factors` `[n]` times as fast, with zeros behind its end, or cut there (Ko et al. 2015).

    Pitch and formants change with the speed, as they differ from speaker to speaker. The Fourier series of the whole sound
    is resampled, so that nothing beyond half the rate folds back. Lengths are rounded to those of fast transforms, about
    one in 200.
    """
    n, fast = waves.shape[1], smooth_numbers(2 * waves.shape[1])
    lengths = fast[np.searchsorted((fast[1:] + fast[:-1]) / 2, n / factors)]
    changed = np.zeros_like(waves)
    for row, wave, length in zip(changed, waves.astype(np.float64), lengths, strict=True):
        played = np.fft.irfft(np.fft.rfft(wave), length) * (length / n)
        row[: min(n, length)] = played[:n]
    return changed


@lru_cache(maxsize=8)
def smooth_numbers(most: int) -> Ids:
    """The numbers up to `most` whose prime factors are 2, 3, 5, 7 and 11. numpy's FFT takes several times as long for others."""
    found = np.ones(1, np.int64)
    for prime in (2, 3, 5, 7, 11):
        powers = prime ** np.arange(int(np.log(most) / np.log(prime)) + 1)
        found = np.outer(found, powers).ravel()
        found = found[found <= most]
    return np.sort(found)


def shifted(waves: Wave, by: Ids) -> Wave:
    """Each waveform later by `by` samples `[n]`, or earlier where it is negative; zeros come in."""
    at = np.arange(waves.shape[1]) - by[:, None]
    inside = (at >= 0) & (at < waves.shape[1])
    moved: Wave = np.where(inside, np.take_along_axis(waves, np.where(inside, at, 0), 1), np.float32(0))
    return moved


def with_noise(waves: Wave, added: Wave, ratios: Floats) -> Wave:
    """Waveforms with noise, both `[n, samples]`, at ratios of their powers in dB `[n]`. Silence stays silent."""
    sound, noise = ((each.astype(np.float64) ** 2).mean(1) for each in (waves, added))
    scale = np.sqrt(sound / np.maximum(noise * 10 ** (ratios / 10), 1e-20))
    noisy: Wave = waves + scale.astype(np.float32)[:, None] * added
    return noisy


def stretch(noise: Wave, share: float, n: int) -> Wave:
    """`n` samples of a noise from this share of it on; a noise that ends goes on from its start."""
    return np.take(noise, np.arange(n) + int(share * len(noise)), mode="wrap")


def spans(ids: Ids, most: int, of: int, seed: int, view: int, coordinate: int) -> tuple[Ids, Ids]:
    """For each sample the first and the number of 0 to `most` neighbours among `of`."""
    n = integers(ids, most + 1, seed, view, coordinate)
    first = (uniform(ids, seed, view, coordinate + 1) * (of - n + 1)).astype(np.int64)
    return first, n


def silenced(waves: Wave, start: Ids, end: Ids) -> Wave:
    """Waveforms with zeros from sample `start` to `end`, each `[n]`."""
    at = np.arange(waves.shape[1])
    return np.where((at >= start[:, None]) & (at < end[:, None]), np.float32(0), waves)


def without_band(waves: Wave, rate: int, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> Wave:
    """Waveforms without the frequencies from `low` to `high` in Hz, each `[n]`; equal ones take nothing away."""
    spectra = np.fft.rfft(waves.astype(np.float64))
    hertz = np.fft.rfftfreq(waves.shape[1], 1 / rate)
    taken = (hertz >= low[:, None]) & (hertz < high[:, None])
    return np.fft.irfft(np.where(taken, 0, spectra), waves.shape[1]).astype(np.float32)


@lru_cache(maxsize=8)
def noises(place: str, rate: int, resample: bool, mono: Mono) -> tuple[Wave, ...]:
    """The noises of a file, or of all sound files below a folder. Raises DataError if one cannot be used."""
    path = Path(place)
    files = sorted(files_below(path, SOUND_SUFFIXES)) if path.is_dir() else [path]
    reading = AudioReading(input="audio", sample_rate=rate, resample=resample, mono=mono)
    found = []
    for file in files:
        try:
            wave, _ = decode_sound(file.read_bytes(), reading)
        except (ValueError, OSError) as error:
            raise DataError(f"{file}: {error}") from error
        if not wave.any():
            raise DataError(f"{file}: it is silent; take it out")
        found.append(wave)
    if not found:
        raise DataError(f"{place} holds no sounds")
    return tuple(found)
