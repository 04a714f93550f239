"""of_sounds: what a data set of sounds decides of a recipe: rate, length, channels, and the spectrogram for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from edgekd.data.encoded import EncodedSplit
from edgekd.data.sources import open_source
from edgekd.errors import DataError
from edgekd.inputs.sound import read_sound
from edgekd.inputs.spectrum import mel_filters
from edgekd.start.data_sets import DataSet
from edgekd.start.draft import Draft, answers, batch_line, columns, counted, doubts, line, reading_task, some, text
from edgekd.start.guess import Guess

MOST_SOUNDS = 300  # that are looked at
HELD = 95  # percent of the sounds are no longer than data.seconds
WINDOW_S, HOP_S = 0.032, 0.02  # of the spectrogram: the power of two below the one, and the other


@dataclass(frozen=True)
class Heard:
    """What some sounds are. rates: Hz -> how many; seconds: the length of each; channels: the most of any."""

    rates: Counter[int]
    seconds: tuple[float, ...]
    channels: int


def of_sounds(found: DataSet, guess: Guess) -> Draft:
    """The lines of a recipe for sounds. Raises DataError for a data set that cannot be read."""
    task = reading_task(guess)
    train = open_source(found.at(found.train), "train", guess.column, guess.label, kind="audio", task=task)
    test = None
    if found.test:
        test = open_source(found.at(found.test), "test", guess.column, guess.label, kind="audio", task=task)
    heard = heard_in(train)
    ((rate, _), *others) = heard.rates.most_common()
    shortest, longest = min(heard.seconds), max(heard.seconds)
    seconds = length_for(heard.seconds)
    n_fft, hop, bands = spectrogram_for(rate)
    data = [*columns(guess), line("sample_rate", str(rate), "samples per second, of the files and on the device")]
    why = "of every file" if shortest == longest else f"files have {shortest:.2f} to {longest:.2f}; longer ones are cut"
    data.append(line("seconds", f"{seconds:g}", why))
    if others:
        data.append(line("resample", "true", f"files of {', '.join(f'{each} Hz' for each, _ in others[:5])} too"))
    if heard.channels == 2:
        data.append(line("mono", '"mean"', "some files have two channels"))
    data += [
        line("n_fft", str(n_fft), f"{1000 * n_fft / rate:.0f} ms"),
        line("hop_length", str(hop), f"{1000 * hop / rate:.0f} ms"),
        line("n_mels", str(bands)),
        line("augment", "{ shift_ms = 100, gain_db = 10 }", "also: noise = FILE, speed = 0.1 for other voices"),
    ]
    lengths = f"{shortest:.2f} s" if shortest == longest else f"{shortest:.2f} to {longest:.2f} s"
    told = [
        counted(found, train, test, "sounds"),
        f"{rate} Hz, {lengths} (by {len(heard.seconds)} of train)"
        + ("" if shortest == longest else f"; seconds = {seconds:g} holds {HELD} % of them"),
        answers(guess, train),
        *doubts(guess, train, test),
    ]
    if heard.channels > 2:
        told.append(f"some files have {heard.channels} channels, of which a build takes at most 2")
    return Draft(
        guess=guess,
        before=(line("input", '"audio"'),),
        data=tuple(data),
        task=() if guess.task == "classify" else (line("kind", text(guess.task)),),
        student="edgekd:ds-cnn",
        instead="also edgekd:bc-resnet, python:",
        distill=(*batch_line(len(train)), line("optimizer", "{ lr = 0.05, weight_decay = 1e-4 }")),
        told=tuple(told),
    )


def heard_in(train: EncodedSplit) -> Heard:
    """The rates, lengths and channels of some sounds. Raises DataError if none can be read, or a package is missing."""
    rates: Counter[int] = Counter()
    seconds, channels, wrong = [], 1, ""
    for i in some(len(train), MOST_SOUNDS):
        try:
            rate, sound = read_sound(train.read(i))
        except ValueError as error:
            wrong = wrong or f"{train.name(i)}: {error}"
            continue
        rates[rate] += 1
        seconds.append(len(sound) / rate)
        channels = max(channels, sound.shape[1])
    if not seconds:
        raise DataError(f"no sound can be read, the first is {wrong}")
    return Heard(rates, tuple(seconds), channels)


def length_for(seconds: tuple[float, ...]) -> float:
    """The length of a student's sounds: that of all, or a tenth of a second that holds 95 % of them."""
    if min(seconds) == max(seconds):
        return float(f"{seconds[0]:.6g}")
    return max(0.1, float(np.ceil(np.percentile(seconds, HELD) * 10 - 1e-6) / 10))


def spectrogram_for(rate: int) -> tuple[int, int, int]:
    """n_fft, hop_length and n_mels for a rate in Hz: as many of 40 bands as no band lies between two frequencies."""
    n_fft = max(8, 2 ** int(np.log2(WINDOW_S * rate)))
    hop = max(1, min(n_fft, round(HOP_S * rate)))
    for bands in (40, 32, 24, 16, 8):
        if rate > 40 and mel_filters(rate, n_fft, bands, 20.0, rate / 2).max(1).min() > 0:
            return n_fft, hop, bands
    return n_fft, hop, 4
