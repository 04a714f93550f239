#!/usr/bin/env python3
"""Runs on a device: how long onnxruntime takes for each of several models there, on one thread, in interleaved rounds.

    python3 device_timings.py ROUNDS BLOCK_MS model.onnx ...

Prints one line of JSON: {"runtime", "machine", "wall_ms": {model: [of each round]}, "cpu_ms": the same}. A round takes a block
of each model, in an order that is reversed every second round; a block lasts at least BLOCK_MS and gives the mean of its runs
in wall time and in the thread's own processor time, which a busy machine does not stretch by making the thread wait. Inputs
are random. Needs Python 3.8+, numpy and onnxruntime alone.
"""

from __future__ import annotations

import json
import platform
import sys
import time

import numpy as np
import onnxruntime as ort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def main() -> None:
    rounds, block_ms, paths = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    calls = [open_model(path) for path in paths]
    for call in calls:
        block(call, block_ms)
    wall: dict[str, list[float]] = {path: [] for path in paths}
    cpu: dict[str, list[float]] = {path: [] for path in paths}
    for number in range(rounds):
        order = list(zip(paths, calls))  # noqa: B905 (Python 3.8)
        for path, call in order if number % 2 == 0 else reversed(order):
            call()  # brings the caches back from the model before
            wall_ms, cpu_ms = block(call, block_ms)
            wall[path].append(wall_ms)
            cpu[path].append(cpu_ms)
    runtime = f"onnxruntime {ort.__version__} CPU"
    print(json.dumps({"runtime": runtime, "machine": platform.machine(), "wall_ms": wall, "cpu_ms": cpu}))


def open_model(path: str) -> Callable[[], object]:
    """A call that runs one sample."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    values = np.random.default_rng(0).uniform(0, 1, shape)
    batch = (values * 255 if given.type == "tensor(uint8)" else values).astype(TYPES[given.type])
    return lambda: session.run(None, {given.name: batch})


def block(call: Callable[[], object], least_ms: float) -> tuple[float, float]:
    """Mean milliseconds of one call: of the wall, and of this thread's processor time."""
    runs, wall, cpu = 0, time.perf_counter_ns(), time.thread_time_ns()
    while runs == 0 or time.perf_counter_ns() - wall < least_ms * 1e6:
        call()
        runs += 1
    return (time.perf_counter_ns() - wall) / runs / 1e6, (time.thread_time_ns() - cpu) / runs / 1e6


if __name__ == "__main__":
    main()
