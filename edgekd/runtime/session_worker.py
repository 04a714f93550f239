"""The worker process: opens an ONNX file in onnxruntime at a time, so that a crash ends this process only.

sessions.py starts it as a script and talks to it through its standard input and output. The end of a pipe that sessions.py
keeps open means that the build has ended. A message is a line of JSON and the raw bytes of its arrays. Only numpy and
onnxruntime are imported: a start takes a quarter of a second.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def send(to: IO[bytes], words: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes a message. Raises ValueError for an array of Python objects, as a graph of strings returns."""
    about = []
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name} holds {array.dtype}, no numbers")
        about.append([name, array.dtype.str, list(arrays[name].shape)])
    to.write(json.dumps({**words, "arrays": about}).encode() + b"\n")
    for array in plain.values():
        to.write(array.reshape(-1).view(np.uint8).data)
    to.flush()


def receive(source: IO[bytes]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Reads the next message. Raises EOFError if the other side has ended."""
    line = source.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    words = json.loads(line)
    arrays = {}
    for name, dtype, shape in words.pop("arrays"):
        array = np.empty(shape, np.dtype(dtype))
        left = array.reshape(-1).view(np.uint8).data
        while len(left):
            taken = source.readinto(left)  # type: ignore[attr-defined]
            if not taken:
                raise EOFError
            left = left[taken:]
        arrays[name] = array
    return words, arrays


def time_block(
    call: Callable[[], object], min_s: float, min_n: int, clock_ns: Callable[[], int]
) -> NDArray[np.float64]:
    """The time of each call in milliseconds, until `min_s` have passed and `min_n` calls were made.

    The garbage collector is off meanwhile, as in timeit: its pauses belong to Python, not to the model.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        samples_ns: list[int] = []
        start = clock_ns()
        while True:
            before = clock_ns()
            call()
            after = clock_ns()
            samples_ns.append(after - before)
            if after - start >= min_s * 1e9 and len(samples_ns) >= min_n:
                return np.asarray(samples_ns, dtype=np.float64) / 1e6
    finally:
        if collecting:
            gc.enable()


class Worker:
    """The open session; each method answers a question of the build."""

    def __init__(self) -> None:
        self.session: Any = None

    def open(self, words: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = words["threads"]
        options.inter_op_num_threads = 1
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if words["optimise"] else level.ORT_DISABLE_ALL
        options.log_severity_level = words["log"]
        for key, value in words["entries"].items():
            options.add_session_config_entry(key, value)
        source = arrays["model"].tobytes() if "model" in arrays else words["path"]
        self.session = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"], disabled_optimizers=words["disabled"]
        )
        given = {"inputs": self.session.get_inputs(), "outputs": self.session.get_outputs()}
        return {kind: [[v.name, v.type, v.shape] for v in values] for kind, values in given.items()}, {}

    def run(self, words: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        names = words["outputs"]
        found = self.session.run(names, dict(arrays))
        return {}, {str(i): np.asarray(array) for i, array in enumerate(found)}

    def time(self, words: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        names, feeds, session = words["outputs"], dict(arrays), self.session
        block = time_block(lambda: session.run(names, feeds), words["min_s"], words["min_n"], time.perf_counter_ns)
        return {}, {"ms": block}

    def close(self, words: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        self.session = None
        return {}, {}


def end_with(lifeline: int) -> None:
    """Ends this process when the build ends and closes the pipe, however long a computation still takes."""
    os.read(lifeline, 1)
    os._exit(0)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the build handles it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to standard error instead: standard output carries answers only
    questions = os.fdopen(os.dup(0), "rb")
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    worker = Worker()
    while True:
        try:
            words, arrays = receive(questions)
        except EOFError:
            os._exit(0)
        try:
            answer, found = getattr(worker, words.pop("do"))(words, arrays)
            send(answers, answer, found)
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:  # onnxruntime's errors share no base class
            send(answers, {"error": str(error), "type": type(error).__name__}, {})


if __name__ == "__main__":
    main()
