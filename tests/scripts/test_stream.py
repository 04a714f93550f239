"""run.py --stream: the phrases in a stream, each once, with its time; and what is no such stream in a line."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.figures.figures import Report
from edgekd.scripts import run
from tests.builders.places import hear_interrupts
from tests.builders.sounds import BACKGROUND, RATE, noise, spoken, write_wav

NAMES = ["low", "high", "middle", "middle", "high", "low"]


def command(bundle: Path, *options: str) -> list[str]:
    return [sys.executable, "-B", str(bundle / "run.py"), "--stream", *options]


def streamed(bundle: Path, data: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(bundle, *options), input=data, capture_output=True, check=False)


def pcm(sound: np.ndarray) -> bytes:
    return np.rint(sound * 32767).astype("<i2").tobytes()


def rows(text: bytes) -> list[tuple[float, str, float]]:
    return [(float(at), name, float(score)) for at, _, name, score in map(str.split, text.decode().splitlines())]


def test_each_tone_is_told_once_and_the_background_never(words: tuple[Report, Path]) -> None:
    sound, begins = spoken(NAMES, 7)
    done = streamed(words[1], pcm(sound), "--background", BACKGROUND)
    found = rows(done.stdout)
    assert done.returncode == 0 and [name for _, name, _ in found] == NAMES, done
    for (at, _, score), begin in zip(found, begins, strict=True):
        assert begin < at < begin + 1.0 and 0.7 <= score <= 1
    told = done.stderr.decode().split()
    assert told[:4] == [f"{len(sound) / RATE:.2f}", "s", "of", "sound,"] and 0 < float(told[-1]) < 1


def test_a_wav_and_bare_samples_give_the_same_lines(words: tuple[Report, Path], tmp_path: Path) -> None:
    sound, _ = spoken(NAMES[:3], 17)
    bare = streamed(words[1], pcm(sound)).stdout
    file = write_wav(tmp_path / "words.wav", sound).read_bytes()
    assert rows(bare) and streamed(words[1], file).stdout == bare
    at = file.index(b"data") + 4
    for size in (0, 0x7FFFFFFF, 0xFFFFFFFF):  # as writers to a pipe leave it
        assert streamed(words[1], file[:at] + struct.pack("<I", size) + file[at + 4 :]).stdout == bare


def test_without_a_named_background_it_is_a_class_as_any(words: tuple[Report, Path]) -> None:
    assert BACKGROUND in {name for _, name, _ in rows(streamed(words[1], pcm(spoken(NAMES[:2], 27)[0])).stdout)}


def test_a_sound_shorter_than_a_window_ends_in_zeros(words: tuple[Report, Path]) -> None:
    sound = spoken(["high"], 37, between=200)[0][:3800]
    found = rows(streamed(words[1], pcm(sound), "--background", BACKGROUND, "--smooth-ms", "100").stdout)
    assert [name for _, name, _ in found] == ["high"] and found[0][0] <= 3800 / RATE


def wav(channels: int = 1, rate: int = RATE, width: int = 2, samples: int = 8000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(bytes(samples * channels * width))
    return file.getvalue()


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "holds no samples"),
    "no samples": (wav(samples=0), "holds no samples"),
    "another rate": (wav(rate=16000), "a rate of 16000 Hz, the model takes 8000 Hz"),
    "two channels": (wav(channels=2), "it has 2 channels; set data.mono"),
    "24 bits": (wav(width=3), "format 1 with 24 bits; --stream takes 16-bit PCM"),
    "cut": (wav()[:-100], "ends 100 bytes before the end that its header tells"),
    "cut in its header": (wav()[:30], "damaged header: it ends before its samples"),
    "no format": (wav()[:12] + wav()[36:], "damaged header: its format is missing"),
    "another block": (wav().replace(b"\x02\x00\x10\x00data", b"\x03\x00\x10\x00data"), "1 channels, 3 bytes a sample"),
    "flac": (b"fLaC" + bytes(4000), "standard input is FLAC"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_such_stream_is_refused_in_a_line(words: tuple[Report, Path], kind: str) -> None:
    data, why = REFUSED[kind]
    done = streamed(words[1], data)
    assert done.returncode == 2 and why in done.stderr.decode() and b"Traceback" not in done.stderr, done
    assert done.stderr.decode().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    "options, why",
    [
        (["--background", "cat"], f"'cat': no such class; the model's are '{BACKGROUND}', 'high', 'low', 'middle'"),
        (["--hop-ms", "600"], "--hop-ms 600 is 4800 samples; from 1 to the 4000"),
        (["--smooth-ms", "-1"], "--smooth-ms and"),
        (["--hop-ms", "0.01"], "--hop-ms 0.01 is 0 samples"),
        (["--threshold", "1.5"], "--threshold lies above 0"),
        (["--suppress-ms", "nan"], "--suppress-ms start at 0"),
        (["word.wav"], "--stream reads standard input alone"),
    ],
)
def test_an_option_that_cannot_work_is_refused(words: tuple[Report, Path], options: list[str], why: str) -> None:
    done = streamed(words[1], bytes(16000), *options)
    assert done.returncode == 2 and why in done.stderr.decode() and b"Traceback" not in done.stderr, done


def test_ctrl_c_ends_a_live_stream_with_its_figures(words: tuple[Report, Path]) -> None:
    sound, _ = spoken(["low"], 47)
    with subprocess.Popen(
        command(words[1], "--background", BACKGROUND),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_interrupts,
    ) as live:
        assert live.stdin is not None and live.stdout is not None and live.stderr is not None
        live.stdin.write(pcm(sound))
        live.stdin.flush()
        assert live.stdout.readline().split()[2] == b"low"  # told while the stream goes on
        live.send_signal(signal.SIGINT)
        errors = live.stderr.read()
        assert live.wait(20) == 130
    assert b"real-time factor" in errors and b"Traceback" not in errors


def test_a_reader_that_leaves_ends_it_quietly(words: tuple[Report, Path]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(command(words[1]), stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE) as live:
        os.close(writer)
        errors = live.communicate(pcm(spoken(NAMES, 57)[0]), timeout=60)[1]
    assert live.returncode == 0 and b"Traceback" not in errors and b"Exception" not in errors


def told(scores: list[list[float]], **settings: Any) -> list[tuple[float, int]]:
    """What a recognizer of a window a second tells of scores."""
    values: dict[str, Any] = {"silent": {0}, "windows": 2, "threshold": 0.6, "pause": 0.0, **settings}
    recognizer = run.Recognizer(**values)
    found = [(at, recognizer(float(at), np.array(row))) for at, row in enumerate(scores)]
    return [(at, one[0]) for at, one in found if one is not None]


A, B, NONE = [0.1, 0.9, 0.0], [0.1, 0.0, 0.9], [0.9, 0.1, 0.0]


def test_the_rules_of_the_recognizer_by_hand() -> None:
    assert told([NONE, A, NONE, NONE]) == []  # the mean is 0.5
    assert told([NONE, A, A, A, A]) == [(2, 1)]  # told once while it lasts
    assert told([NONE, A, A, NONE, NONE, A, A]) == [(2, 1), (6, 1)]  # and again once it was over
    assert told([A, A, B, B]) == [(1, 1), (3, 2)]
    assert told([A, A, B, B, B], pause=3.0) == [(1, 1), (4, 2)]  # within the pause none
    assert told([NONE, NONE], silent=set()) == [(1, 0)]
    assert told([[float("nan")] * 3] * 3) == []
    assert told([A], windows=1) == [(0, 1)] and told([A]) == []  # the mean needs all its windows


def test_windows_follow_each_other_by_the_hop_and_zeros_end_them() -> None:
    samples = np.arange(1, 11)
    stream = run.Stream(io.BytesIO(samples.astype("<i2").tobytes()), {"sample_rate": RATE})
    found = [(heard, list(np.rint(window[0] * 32768).astype(int))) for heard, window in run.windows_of(stream, 4, 4, 1)]
    assert found == [(4, [1, 2, 3, 4]), (8, [5, 6, 7, 8]), (10, [9, 10, 0, 0])]
    stream = run.Stream(io.BytesIO(samples.astype("<i2").tobytes()), {"sample_rate": RATE})
    overlapping = [list(np.rint(window[0] * 32768).astype(int)) for _, window in run.windows_of(stream, 4, 3, 1)]
    assert overlapping == [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10], [10, 0, 0, 0]]


def test_a_long_stream_is_read_as_it_comes(words: tuple[Report, Path]) -> None:
    """Lines come long before the end: nothing waits for the whole."""
    with subprocess.Popen(
        command(words[1], "--background", BACKGROUND),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as live:
        assert live.stdin is not None and live.stdout is not None
        live.stdin.write(pcm(spoken(["middle"], 67)[0]))
        live.stdin.flush()
        start = time.monotonic()
        assert live.stdout.readline().split()[2] == b"middle" and time.monotonic() - start < 20
        live.stdin.write(pcm(noise(RATE, 77)))
        assert live.communicate(timeout=60)[0] == b"" and live.returncode == 0
