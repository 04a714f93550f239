"""Sounds: `decode_sound` turns any sound into float32 `[samples]` of one rate and one length, by one rule.

    whole numbers     of 8, 16, 24 and 32 bits by their full scale: 16 bits by 32768
    floats            as they are, full scale at 1; beyond 4 they are refused, and so are NaN and infinity
    two channels      refused, or their mean, the left or the right one, as data.mono says; more channels are refused
    another rate      refused, or resampled (soxr, HQ) as data.resample says
    another length    cut at the end, or filled with zeros at the end, to data.seconds

WAV of whole numbers or floats is read here, other formats by soundfile. run.py, which ships alone, holds `read_wav`,
`sound_problem` and `one_channel` in the same lines; tests/scripts/test_sounds.py compares them.
"""

from __future__ import annotations

import importlib
import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import DataError
from edgekd.recipe import AudioReading

Array = npt.NDArray[Any]
Wave = npt.NDArray[np.float32]

LOUDEST = 4.0  # times full scale: lossy formats go a little beyond 1, other scales far beyond


def decode_sound(stored: bytes | Array, reading: AudioReading) -> tuple[Wave, tuple[str, ...]]:
    """A stored sound as float32 `[samples]`, and remarks that complete "3 of 9 sounds ...".

    stored: a file's bytes, or an array `[samples]` or `[samples, channels]` of int16 or floats at `reading.sample_rate`.
    Raises ValueError with the reason if the sound cannot be used as `reading` says, and DataError if a package is missing.
    """
    rate, sound = read_sound(stored) if isinstance(stored, bytes) else (reading.sample_rate, as_float(stored))
    if problem := sound_problem(sound):
        raise ValueError(problem)
    wave, remarks = one_channel(sound, reading.mono or ""), []
    if rate != reading.sample_rate:
        wave = _resampled(wave, rate, reading)
        remarks.append(f"have another rate and were resampled to {reading.sample_rate} Hz")
    wanted, n = reading.samples or len(wave), len(wave)
    if n != wanted:
        told = f"than {reading.seconds:g} s and "
        remarks.append(f"are longer {told}were cut" if n > wanted else f"are shorter {told}end in zeros")
    wave = of_length(wave, wanted)
    if not wave.any():
        remarks.append("are silent (all zeros)")
    return np.ascontiguousarray(wave), tuple(remarks)


def as_float(sound: Array) -> Wave:
    """An array as float32 `[samples, channels]`: of int16 the values by 32768. Raises ValueError for other types and axes."""
    if sound.ndim not in (1, 2) or not (sound.dtype == np.int16 or sound.dtype.kind == "f"):
        raise ValueError(
            f"it is {sound.dtype} {list(sound.shape)}; a sound is int16 or float, [samples] or [samples, channels]"
        )
    scaled = sound.astype(np.float32) / np.float32(32768 if sound.dtype == np.int16 else 1)
    return scaled[:, None] if scaled.ndim == 1 else scaled


def of_length(wave: Wave, n: int) -> Wave:
    """The first `n` samples, with zeros where there are fewer."""
    return np.pad(wave, (0, n - len(wave))) if n > len(wave) else wave[:n]


def read_sound(data: bytes) -> tuple[int, Wave]:
    """The rate and the samples float32 `[samples, channels]` of a file. Raises ValueError if it is no sound."""
    if (found := read_wav(data)) is not None:
        return found
    soundfile = _package("soundfile", "this file is no plain WAV; other formats need soundfile")
    try:
        sound, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (RuntimeError, TypeError, ValueError) as error:  # soundfile's own error is a RuntimeError
        # The text of libsndfile names a BytesIO, whose address differs from run to run.
        raise ValueError(
            f"no sound that soundfile reads ({str(error).rpartition(': ')[2][:200]}); possible are WAV, FLAC, OGG and MP3"
        ) from error
    return int(rate), sound


def _resampled(wave: Wave, rate: int, reading: AudioReading) -> Wave:
    if not reading.resample:
        raise ValueError(
            f"its rate is {rate} Hz, data.sample_rate is {reading.sample_rate}; set data.resample = true, or give files of that rate"
        )
    resampled: Wave = _package("soxr", "data.resample = true needs soxr").resample(wave, rate, reading.sample_rate)
    if len(resampled) == 0:
        raise ValueError(f"it holds no samples at {reading.sample_rate} Hz")
    return resampled


def _package(name: str, why: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: libsndfile is missing
        raise DataError(f"{why}, which does not import here; install it with: pip install 'edgekd[audio]'") from error


def read_wav(data: bytes) -> tuple[int, Array] | None:
    """(rate, float32 [samples, channels]) of a WAV; None for what is none, or is packed. Raises ValueError for a damaged one."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    chunks: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name in (b"fmt ", b"data"):
            if at + 8 + size > len(data):
                raise ValueError(f"its header tells {size} bytes of samples, the file holds {len(data) - at - 8}")
            chunks.setdefault(name, data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    header, samples = chunks.get(b"fmt ", b""), chunks.get(b"data")
    if len(header) < 16 or samples is None:
        raise ValueError("its header is damaged: no format, or no samples")
    code, channels, rate, _, block, bits = struct.unpack("<HHIIHH", header[:16])
    if code == 0xFFFE and len(header) >= 26:  # the extended header has the format behind it
        code = int.from_bytes(header[24:26], "little")
    kinds = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "u1", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
    if (code, bits) not in kinds:
        return None
    if not channels or not rate or block != channels * bits // 8 or len(samples) % block:
        raise ValueError(f"its header is damaged: {channels} channels, {rate} Hz, {block} bytes a sample")
    values = np.frombuffer(samples, kinds[code, bits])
    if bits == 24:  # the upper three bytes of 32 bits
        wide = np.zeros((len(values) // 3, 4), np.uint8)
        wide[:, 1:] = values.reshape(-1, 3)
        values = wide.view("<i4")
    if code == 1:
        values = (values - 128.0) / 128 if bits == 8 else values / (32768.0 if bits == 16 else 2147483648.0)
    with np.errstate(over="ignore"):
        return rate, values.astype(np.float32).reshape(-1, channels)


def sound_problem(sound: Array) -> str:
    """Why float32 [samples, channels] cannot be a sound; empty where it can."""
    if not len(sound):
        return "it holds no samples"
    if not np.isfinite(sound).all():
        return "it holds values that are NaN or infinite"
    loudest = float(np.abs(sound).max())
    return (
        f"its values reach {loudest:g}; full scale is 1: divide values of 16 bits by 32768" if loudest > LOUDEST else ""
    )


def one_channel(sound: Array, mono: str) -> Array:
    """float32 [samples] of [samples, channels]; of two channels what `mono` says: mean, left, right. Raises ValueError."""
    if sound.shape[1] == 1:
        return sound[:, 0]
    if sound.shape[1] > 2 or not mono:
        remedy = (
            "; set data.mono (mean, left or right) in the recipe, or make it one: ffmpeg -i FILE -ac 1 mono.wav"
            if sound.shape[1] == 2
            else "; give files of one"
        )
        raise ValueError(f"it has {sound.shape[1]} channels{remedy}")
    left, right = sound[:, 0], sound[:, 1]
    return np.float32(0.5) * (left + right) if mono == "mean" else left if mono == "left" else right
