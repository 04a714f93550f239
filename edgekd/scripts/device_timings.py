#!/usr/bin/env python3
"""Runs on a device: times several models in a runtime, in interleaved rounds.

    python3 device_timings.py onnxruntime|tensorrt ROUNDS BLOCK_MS fp32-one.onnx int8-two.onnx ...

Prints a line of JSON: {"runtime", "machine", "wall_ms": {model: [of each round]}, "cpu_ms": the same}. A round takes a
block of each model; the order is reversed every second round. A block lasts at least BLOCK_MS and gives the mean of its
runs. onnxruntime runs on a single thread. Its own processor time does not grow when a busy machine makes it wait. TensorRT
runs an engine that is built here, in the format that the file's name begins with, without copies. For TensorRT the wall
time stands for both. Inputs are random. Needs Python 3.8+, numpy, the runtime, and run.py, build_engine.py and
device_task.py beside it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from edgekd.scripts.device_task import end_with_connection
    from edgekd.scripts.run import NUMPY_TYPES, EngineModel, OnnxModel

    ICudaEngine = Any
else:
    from device_task import end_with_connection
    from run import NUMPY_TYPES, EngineModel, OnnxModel

TYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32,
    "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip


def main() -> None:
    end_with_connection()
    runtime, rounds, block_ms, paths = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    calls, name = [], ""
    for path in paths:
        call, name = open_engine(path) if runtime == "tensorrt" else open_model(path)
        calls.append(call)
    for call in calls:
        block(call, block_ms)
    wall: dict[str, list[float]] = {path: [] for path in paths}
    cpu: dict[str, list[float]] = {path: [] for path in paths}
    for number in range(rounds):
        order = list(zip(paths, calls))  # noqa: B905 (Python 3.8)
        for path, call in order if number % 2 == 0 else reversed(order):
            call()  # reloads the caches after the previous model
            wall_ms, cpu_ms = block(call, block_ms)
            wall[path].append(wall_ms)
            cpu[path].append(wall_ms if runtime == "tensorrt" else cpu_ms)
    print(json.dumps({"runtime": name, "machine": platform.machine(), "wall_ms": wall, "cpu_ms": cpu}))


def open_model(path: str) -> tuple[Callable[[], object], str]:
    """A call that runs a sample in onnxruntime, and the runtime's name."""
    model = OnnxModel(path, 1)
    inputs = {
        given.name: values([size if isinstance(size, int) else 1 for size in given.shape], TYPES[given.type])
        for given in model.session.get_inputs()
    }
    return lambda: model.session.run(None, inputs), model.name


def values(shape: list[int], dtype: Any) -> np.ndarray[Any, Any]:
    """Random values of an input: bytes in their range, floats in 0..1, other integers 0 or 1.

    The integers 0 and 1 are valid indices of every table with two rows.
    """
    kind, rng = np.dtype(dtype), np.random.default_rng(0)
    if kind == np.uint8:
        return (rng.uniform(0, 1, shape) * 255).astype(kind)
    return rng.uniform(0, 1, shape).astype(kind) if kind.kind == "f" else rng.integers(0, 2, shape).astype(kind)


def open_engine(path: str) -> tuple[Callable[[], object], str]:
    """A call that runs a sample in TensorRT, and the runtime's name.

    The engine is built here, with a timing cache for all models, and the sample lies on the GPU.
    """
    folder, plan, precision = os.path.dirname(path), path + ".plan", os.path.basename(path).partition("-")[0]
    words = [sys.executable, os.path.join(folder, "build_engine.py"), "--model", path, "--output", plan]
    words += ["--timing-cache", os.path.join(folder, "timing.cache"), "--precision", precision]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{os.path.basename(path)}: the engine was not built:\n{done.stdout[-2000:]}")
    model = EngineModel(plan)
    engine: ICudaEngine = model.engine
    model.place(
        {
            name: values(
                [max(size, 1) for size in engine.get_tensor_shape(name)],
                NUMPY_TYPES[engine.get_tensor_dtype(name).name],
            )
            for name in model.inputs
        }
    )
    return model.compute, model.name


def block(call: Callable[[], object], least_ms: float) -> tuple[float, float]:
    """Mean milliseconds of a call: of the wall, and of this thread's processor time."""
    runs, wall, cpu = 0, time.perf_counter_ns(), time.thread_time_ns()
    while runs == 0 or time.perf_counter_ns() - wall < least_ms * 1e6:
        call()
        runs += 1
    return (time.perf_counter_ns() - wall) / runs / 1e6, (time.thread_time_ns() - cpu) / runs / 1e6


if __name__ == "__main__":
    main()
