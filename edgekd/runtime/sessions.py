"""Session: an ONNX file in onnxruntime, in a separate process. A crash of that process is a ModelError here.

onnxruntime can end its process: some optimisations fail on some graphs, and the system may reclaim memory. So edgekd never
opens a model in the process that builds. A process is used again once its session is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ModelError
from edgekd.runtime import session_worker

Array = NDArray[Any]
PATIENCE_S = 1800.0  # for an answer: opening a model of gigabytes takes minutes, and so does a batch of 250 images


class Refused(Exception):
    """onnxruntime's reason why it does not load a model, or does not run it on these inputs."""


class Ended(ModelError):
    """A model's process ended or did not answer. `session` is the session of that process."""

    def __init__(self, message: str, session: object = None) -> None:
        super().__init__(message)
        self.session = session


@dataclass(frozen=True)
class Value:
    """An input or output of a graph. `type` is onnxruntime's text, as `tensor(float)`. A free size is a name or None."""

    name: str
    type: str
    shape: list[Any]


class Process:
    """A process that opens a model at a time, and that ends with this process."""

    def __init__(self) -> None:
        lifeline, self._lifeline = os.pipe()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", session_worker.__file__, str(lifeline)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, pass_fds=[lifeline],
            )  # fmt: skip
        finally:
            os.close(lifeline)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def ask(
        self, words: Mapping[str, Any], arrays: Mapping[str, Array], patience_s: float
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Sends a question and returns the process's answer.

        Raises Refused with onnxruntime's reason, EOFError if the process ended. Raises TimeoutError if the process was
        ended because it did not answer in time.
        """
        assert self._child.stdin is not None and self._child.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._child.kill()

        timer = threading.Timer(patience_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            session_worker.send(self._child.stdin, words, arrays)
            answer, results = session_worker.receive(self._child.stdout)
        except (EOFError, BrokenPipeError):
            self._child.wait()
            if late.is_set():
                raise TimeoutError from None
            raise EOFError from None
        except BaseException:  # after Ctrl-C in the middle of an answer, the rest of the stream has no meaning
            self.end()
            raise
        finally:
            timer.cancel()
        if "error" in answer:
            raise Refused(answer["error"])
        return answer, results

    @property
    def how_it_ended(self) -> str:
        return ending(self._child.wait())

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):  # a flush of unsent bytes fails, because the reader has ended
                if pipe is not None:
                    pipe.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


_idle: list[Process] = []
_lock = threading.Lock()


def _take() -> Process:
    with _lock:
        while _idle:
            process = _idle.pop()
            if process.alive:
                return process
            process.end()
    return Process()


def _give_back(process: Process) -> None:
    """Keeps a single idle process for the next session, and ends further ones."""
    try:
        process.ask({"do": "close"}, {}, 60.0)
    except (Refused, EOFError, TimeoutError):
        process.end()
        return
    with _lock:
        if not _idle:
            _idle.append(process)
            return
    process.end()


@atexit.register
def _end_idle() -> None:
    with _lock:
        while _idle:
            _idle.pop().end()


def ending(code: int) -> str:
    """The end of a process in words: the signal's name, or the exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"ended with signal {-code}"
    often = "; the system does so where the memory runs out" if name == "SIGKILL" else ""
    return f"ended with signal {-code} ({name}{often})"


class Session:
    """A model in onnxruntime on the CPU, like `onnxruntime.InferenceSession`, but in a separate process.

    source: a path, or the model itself as bytes; entries: session configuration; disabled: names of optimisers. Raises
    Refused if onnxruntime does not load the model, Ended if the process ends meanwhile.
    """

    def __init__(
        self,
        source: Path | str | bytes,
        *,
        threads: int = 1,
        optimise: bool = True,
        entries: Mapping[str, str] | None = None,
        disabled: Sequence[str] = (),
        log: int = 3,
        title: str = "",
    ) -> None:
        self.path = title or ("a model" if isinstance(source, bytes) else str(source))
        self._process = _take()
        # `close` or the loss of the last reference gives the process back, or ends it.
        self._finish = weakref.finalize(self, _finished, self._process)
        level = "at its highest optimisation level" if optimise else "without optimisation"
        words: dict[str, Any] = {
            "do": "open", "threads": threads, "optimise": optimise, "entries": dict(entries or {}), "log": log,
            "disabled": list(disabled),
        }  # fmt: skip
        arrays = {}
        if isinstance(source, bytes):
            arrays["model"] = np.frombuffer(source, np.uint8)
        else:
            words["path"] = os.path.abspath(source)
        answer, _ = self._ask(words, arrays, f"while it opened the model {level}")
        self._inputs = [Value(*value) for value in answer["inputs"]]
        self._outputs = [Value(*value) for value in answer["outputs"]]

    def get_inputs(self) -> list[Value]:
        return self._inputs

    def get_outputs(self) -> list[Value]:
        return self._outputs

    @property
    def pid(self) -> int:
        """The id of the model's process."""
        return self._process.pid

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Runs the model and returns the named outputs, or all outputs for None. Raises Refused and Ended."""
        words = {"do": "run", "outputs": None if outputs is None else list(outputs)}
        _, found = self._ask(words, feeds, "while it ran the model")
        return list(found.values())

    def time(
        self, outputs: Sequence[str] | None, feeds: Mapping[str, Array], min_s: float, min_n: int
    ) -> NDArray[np.float64]:
        """A block for `protocol.interleave`, timed in the model's process: the time of each run, in milliseconds."""
        words = {"do": "time", "outputs": None if outputs is None else list(outputs), "min_s": min_s, "min_n": min_n}
        _, found = self._ask(words, feeds, "while it was timed")
        return found["ms"]

    def close(self) -> None:
        self._finish()

    def _ask(
        self, words: Mapping[str, Any], arrays: Mapping[str, Array], when: str
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        try:
            return self._process.ask(words, arrays, PATIENCE_S)
        except EOFError:
            raise Ended(f"the runtime {self._process.how_it_ended} {when}", self) from None
        except TimeoutError:
            raise Ended(f"the runtime gave no answer within {PATIENCE_S:g} s {when}", self) from None


def _finished(process: Process) -> None:
    if process.alive and not sys.is_finalizing():
        _give_back(process)
    else:
        process.end()
