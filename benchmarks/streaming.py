"""Does run.py --stream find every phrase in a stream, and nothing else? Prints a table with the real-time factor; no test.

    python benchmarks/streaming.py BUNDLE SOUNDS [--other SOUNDS]

BUNDLE is one of a model of sounds, SOUNDS what data.test takes. Each stream is made of sounds of phrases, one to three
of the background before and behind each; no phrase comes twice. The streams go to the bundle's run.py as a WAV on
standard input, on one core. A hit is a line of the right class after the phrase began and at most a second after it
ended; a second line for a phrase, one of another class and any other line is a false alarm. `--other` is a stream of
sounds that are no phrase, as of other words: each of its lines is a false alarm.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from edgekd.bundle.read import read_manifest
from edgekd.data.sources import EncodedSplit, open_source
from edgekd.inputs.sound import decode_sound
from edgekd.recipe import AudioReading
from edgekd.runtime.runners import machine, versions

LATE = 1.0  # seconds after a phrase in which its line is a hit


@dataclass
class Stream:
    """A sound, and the phrases in it: first sample, sample behind it, class."""

    sounds: list[np.ndarray] = field(default_factory=list)
    phrases: list[tuple[int, int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.sounds))

    def add(self, sound: np.ndarray, phrase: str = "") -> None:
        if phrase:
            self.phrases.append((len(self), len(self) + len(sound), phrase))
        self.sounds.append(sound)


@dataclass
class Found:
    """What run.py told of streams."""

    hits: int = 0
    misses: int = 0
    false_alarms: int = 0
    delays: list[float] = field(default_factory=list)
    """Seconds from the end of a phrase to its line."""
    factors: list[float] = field(default_factory=list)


def main(
    bundle: Path,
    sounds: str,
    other: Annotated[str | None, typer.Option(help="Sounds that are no phrase.")] = None,
    background: str = "_background_",
    seconds: Annotated[float, typer.Option(help="Of each stream.")] = 60.0,
    streams: Annotated[int, typer.Option(help="At most; fewer where the phrases run out.")] = 100,
    seed: int = 0,
    option: Annotated[
        list[str] | None, typer.Option(help="Of run.py, as --option=--hop-ms=50; may be repeated.")
    ] = None,
) -> None:
    """Stream, and compare what was told with what was said."""
    rate = read_manifest(bundle).input.sample_rate
    assert rate is not None, "this bundle takes no sounds"
    print(f"{machine()}; {', '.join(f'{name} {version}' for name, version in versions().items())}")
    extra = [f"--background={background}", *(option or [])]
    split = open_source(sounds, "test", kind="audio")
    drawn = list(drawn_from(split, rate, background, int(seconds * rate), seed))[:streams]
    print("| | streams | minutes | phrases | hits | misses | false alarms | after the phrase, s | real-time factor |")
    print("|---|---|---|---|---|---|---|---|---|")
    row("first stream", drawn[:1], bundle, rate, extra)
    row("all streams", drawn, bundle, rate, extra)
    if other is not None:
        row("other sounds", [joined(open_source(other, "test", kind="audio"), rate)], bundle, rate, extra)


def decoded(split: EncodedSplit, rate: int) -> list[np.ndarray]:
    reading = AudioReading.model_validate({"input": "audio", "sample_rate": rate, "resample": True, "mono": "mean"})
    return [decode_sound(split.read(i), reading)[0] for i in range(len(split))]


def drawn_from(split: EncodedSplit, rate: int, background: str, length: int, seed: int):  # type: ignore[no-untyped-def]
    """Streams of `length` samples, until the phrases run out; the last one is not filled and not given."""
    rng, sounds = np.random.default_rng(seed), decoded(split, rate)
    silent = split.classes.index(background)
    quiet = [sounds[i] for i in np.flatnonzero(split.labels == silent)]
    stream = Stream()
    for i in rng.permutation(np.flatnonzero(split.labels != silent)):
        before = [quiet[j] for j in rng.integers(0, len(quiet), rng.integers(1, 4))]
        # A second of background stays behind the last phrase.
        if len(stream) + sum(map(len, before)) + len(sounds[i]) > length - rate:
            while len(stream) < length:
                stream.add(quiet[rng.integers(0, len(quiet))][: length - len(stream)])
            yield stream
            stream = Stream()
        for sound in before:
            stream.add(sound)
        stream.add(sounds[i], split.classes[split.labels[i]])


def joined(split: EncodedSplit, rate: int) -> Stream:
    """All sounds of a split, one behind the other, as a stream without phrases."""
    stream = Stream()
    for sound in decoded(split, rate):
        stream.add(sound)
    return stream


def row(title: str, streams: list[Stream], bundle: Path, rate: int, options: list[str]) -> None:
    found = Found()
    for stream in streams:
        compare(stream, *told(stream, bundle, rate, options), rate, found)
    minutes, phrases = sum(map(len, streams)) / rate / 60, sum(len(stream.phrases) for stream in streams)
    low, middle, high = np.percentile(found.delays, [0, 50, 100]) if found.delays else (np.nan,) * 3
    print(
        f"| {title} | {len(streams)} | {minutes:.2f} | {phrases} | {found.hits} | {found.misses} | {found.false_alarms} | "
        f"{middle:.2f} ({low:.2f} to {high:.2f}) | "
        f"{np.median(found.factors):.4f} ({min(found.factors):.4f} to {max(found.factors):.4f}) |"
    )


def told(stream: Stream, bundle: Path, rate: int, options: list[str]) -> tuple[list[tuple[float, str]], float]:
    """(seconds, class) of each line of run.py, and its real-time factor, on one core."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.rint(np.concatenate(stream.sounds) * 32768).clip(-32768, 32767).astype("<i2").tobytes())
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-B", str(bundle / "run.py"), "--stream", *options],
        input=file.getvalue(),
        capture_output=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    lines = [re.fullmatch(r" *([\d.]+) s  (.*)  [\d.]+", line) for line in done.stdout.decode().splitlines()]
    return [(float(line[1]), line[2]) for line in lines if line], float(done.stderr.split()[-1])


def compare(stream: Stream, lines: list[tuple[float, str]], factor: float, rate: int, found: Found) -> None:
    """Counts into `found`."""
    found.factors.append(factor)
    open_phrases = list(stream.phrases)
    for at, name in lines:
        for phrase in open_phrases:
            begin, end, spoken = phrase
            if spoken == name and begin / rate < at <= end / rate + LATE:
                open_phrases.remove(phrase)
                found.hits += 1
                found.delays.append(at - end / rate)
                break
        else:
            found.false_alarms += 1
    found.misses += len(open_phrases)


if __name__ == "__main__":
    typer.run(main)
