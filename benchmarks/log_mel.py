"""How long does the log-mel part of a graph take, beside a front end by hand with NumPy's rfft? Prints a table; no test.

    python benchmarks/log_mel.py BUNDLE [--blocks 11]

BUNDLE is one of a model of sounds with a log-mel spectrogram. Its operators `preprocess.*` are cut from model.onnx and
run as run.py runs the model, on one thread. The front end by hand has the same frames, window, mel bands and
floor, in float32. Both are checked against each other, then timed in turns, in blocks; the table has the medians of the
blocks, and the ratio of each pair of blocks. The whole graph is timed in the same turns.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")  # NumPy's matrix product has one thread, as the graph

import numpy as np
import onnx
import typer
from onnx.utils import Extractor

from edgekd.inputs.spectrum import mel_filters
from edgekd.recipe import load_recipe
from edgekd.runtime.runners import machine, versions
from edgekd.scripts import SCRIPTS

FLOOR = 1e-6  # of edgekd.inputs.mel


def main(
    bundle: Path,
    recipe: Annotated[Path, typer.Option(help="Of the bundle, for the spectrogram's keys.")] = Path(
        "examples/wakeword"
    ),
    blocks: int = 11,
    seconds: Annotated[float, typer.Option(help="Of each block.")] = 0.5,
) -> None:
    """Compare, on one thread, in turns."""
    print(f"{machine()}; {', '.join(f'{name} {version}' for name, version in versions().items())}")
    run = scripts_run()
    data = load_recipe(recipe).data
    whole = run.OnnxModel(str(bundle / "model.onnx"), 1)
    cut = cut_from(bundle / "model.onnx")
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(cut, Path(folder) / "front.onnx")
        front = run.OnnxModel(str(Path(folder) / "front.onnx"), 1)
    given = json.loads((bundle / "manifest.json").read_text())["input"]
    samples = given["shape"][1]
    assert (data.sample_rate, data.samples) == (given["sample_rate"], samples), "another recipe made this bundle"
    assert not data.n_mfcc, "the front end by hand has no MFCC"
    wave = (0.1 * np.random.default_rng(0).standard_normal((1, samples))).astype(np.float32)
    by_hand = front_end(data)
    difference = np.abs(front({"waveform": wave})[0].reshape(data.n_mels, -1) - by_hand(wave[0])).max()
    print(f"{samples} samples at {data.sample_rate} Hz, n_fft {data.n_fft}, hop {data.hop_length}, {data.n_mels} bands")
    print(f"largest difference of log power: {difference:.2g}")
    assert difference < 1e-3
    calls: dict[str, Callable[[], object]] = {
        "in the graph": lambda: front({"waveform": wave}),
        "by hand, NumPy rfft": lambda: by_hand(wave[0]),
        "whole graph": lambda: whole({"waveform": wave}),
    }
    table(run, calls, blocks, seconds)


def scripts_run():  # type: ignore[no-untyped-def]
    """run.py as a module: its sessions are those of a device."""
    spec = importlib.util.spec_from_file_location("run", SCRIPTS / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cut_from(file: Path) -> onnx.ModelProto:
    """The operators `preprocess.*` of a file as a graph of their own, from the waveform to the spectrogram."""
    model = onnx.shape_inference.infer_shapes(onnx.load(file))
    names = [node.output[0] for node in model.graph.node if node.name.startswith("preprocess.")]
    return Extractor(model).extract_model([model.graph.input[0].name], [names[-1]])


def front_end(data) -> Callable[[np.ndarray], np.ndarray]:  # type: ignore[no-untyped-def]
    """What one writes by hand: strided frames, a window, rfft, the mel matrix, the logarithm."""
    n, hop = data.n_fft, data.hop_length
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)).astype(np.float32)
    mel = mel_filters(data.sample_rate, n, data.n_mels, data.f_min, data.highest).astype(np.float32)

    def compute(wave: np.ndarray) -> np.ndarray:
        padded = np.pad(wave, n // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, n)[::hop]
        spectrum = np.fft.rfft(frames * window)
        power = spectrum.real**2 + spectrum.imag**2
        return np.log(mel @ power.T + np.float32(FLOOR))

    return compute


def table(run, calls: dict[str, Callable[[], object]], blocks: int, seconds: float) -> None:  # type: ignore[no-untyped-def]
    """Time in turns, each round in another order, and print."""
    rng, medians = np.random.default_rng(0), {name: [] for name in calls}
    counts = dict.fromkeys(calls, 0)
    for name in calls:
        run.time_calls(calls[name], 1.0, 20)
    start = time.perf_counter()
    for _ in range(blocks):
        for name in rng.permutation(list(calls)):
            found = run.time_calls(calls[name], seconds, 20)
            medians[name].append(float(np.median(found)))
            counts[name] += len(found)
    print(f"{blocks} blocks of {seconds:g} s in turns, {time.perf_counter() - start:.0f} s in all\n")
    base = np.array(medians["in the graph"])
    print("| | p50, ms (blocks) | n | the graph's part takes, of it |")
    print("|---|---|---|---|")
    for name, values in medians.items():
        ratio = base / np.array(values)
        print(
            f"| {name} | {np.median(values):.4f} ({min(values):.4f} to {max(values):.4f}) | {counts[name]} | "
            f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f}) |"
        )


if __name__ == "__main__":
    sys.exit(typer.run(main))
