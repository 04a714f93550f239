"""Runner: a protocol for a model in a runtime, with a short class for each runtime.

machine, versions: the conditions of a figure.
"""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from edgekd.base.arrays import write_arrays
from edgekd.base.external_data import check_external_data
from edgekd.errors import ModelError
from edgekd.runtime.bf16 import FOLDER, ROUNDED, as_on_a_gpu
from edgekd.runtime.sessions import Ended, Refused, Session, ending
from edgekd.scripts import SCRIPTS
from edgekd.scripts.run import rows_of, sizes_problem

Batch = NDArray[Any]
Inputs = Mapping[str, NDArray[Any]]
"""Arrays `[n, ...]` by the names of a graph's inputs, in the graph's order. Row i of each belongs to sample i."""

QDQ_APART = "Q and DQ apart"
NCHWC = "NchwcTransformer"
"""onnxruntime's pass that blocks channels on x86. On some fp16 graphs it ends the process (observed with 1.23 to 1.31)."""

NOTABLE_FEATURES = (
    ("avx2", "avx2"),
    ("avx512f", "avx512f"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx_vnni", "avx_vnni"),
    ("amx_int8", "amx_int8"),
    ("asimddp", "dotprod"),
    ("asimdhp", "fp16"),
    ("i8mm", "i8mm"),
    ("sve", "sve"),
)


class Runner(Protocol):
    """A model in a runtime. `name` is the runtime with its version and any unusual settings."""

    @property
    def name(self) -> str: ...

    @property
    def threads(self) -> int: ...

    def run(self, inputs: Inputs) -> Batch:
        """Runs the model: `[batch, ...]` of each input as the model takes it -> `[batch, classes]`."""
        ...


class TorchRunner:
    """A module in eager PyTorch on the CPU. The inputs, in their order, are its arguments.

    The number of threads is global to the process; `run` sets it.
    """

    def __init__(self, module: torch.nn.Module, *, threads: int = 1) -> None:
        self._module = module.eval()
        self.threads = threads
        self.name = f"torch {torch.__version__} CPU"

    def run(self, inputs: Inputs) -> Batch:
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            arguments = (torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values())
            output: torch.Tensor = self._module(*arguments)
        return output.numpy()


@dataclass(frozen=True)
class Opened:
    """An open session, and its unusual settings in words."""

    session: Session
    set_otherwise: tuple[str, ...]


def open_session(path: Path | str, *, threads: int = 1, optimise: bool = True) -> Opened:
    """Opens an ONNX file in onnxruntime on the CPU, with settings that make it compute as the file says.

    On x86 without VNNI, int8 products saturate at 16 bits, and accuracy would differ from the device's.
    `session.x64quantprecision` is set there. A bf16 graph is computed in fp32 and rounded after every operator. On a
    processor with fp16, onnxruntime's integer operators refuse the fp16 scales of a TensorRT graph. There Q and DQ are not
    fused. The pass `NCHWC` is disabled for fp16 graphs on which it may end the process. With `optimise` off every tensor
    has the value that the file says. The model runs in a separate process (see edgekd.runtime.sessions). Raises ModelError
    if the file cannot be loaded, or ends that process.
    """
    check_external_data(path)
    entries = {FOLDER: os.path.dirname(os.path.abspath(path))}
    # WeightBiasQuantization would round float biases to integers; a TensorRT engine keeps them float.
    disabled = ["WeightBiasQuantization"]
    set_otherwise = []
    if int8_saturates(platform.machine(), cpu_features()):
        entries["session.x64quantprecision"] = "1"
        set_otherwise.append("x64quantprecision")

    def start(source: bytes | str) -> Session:
        return Session(
            source, threads=threads, optimise=optimise, entries=entries, disabled=disabled, title=os.fspath(path)
        )

    try:
        if nchwc_may_end_it(path):
            disabled.append(NCHWC)
            set_otherwise.append(f"without {NCHWC}")
        rounded = as_on_a_gpu(path)
        if rounded:
            set_otherwise.append(ROUNDED)
        try:
            session = start(rounded or str(path))
        except Refused as error:
            if not refuses_fp16_scales(error):
                raise
            entries["session.disable_quant_qdq"] = "1"
            set_otherwise.append(QDQ_APART)
            session = start(rounded or str(path))
    except ModelError:
        raise
    except Exception as error:  # protobuf's and onnx's share no base class
        raise ModelError(f"onnxruntime {ort.__version__} cannot load {path}: {' '.join(str(error).split())}") from error
    return Opened(session, tuple(set_otherwise))


class OnnxRunner:
    """An ONNX file in onnxruntime on the CPU (see open_session). `run` gives the first of `outputs`.

    `inputs` and `outputs` are names in the graph's order. `name` includes unusual settings. If `rounds_to_bf16` is true,
    the latency has no meaning. Raises ModelError if the file cannot be loaded, for inputs of other names, and for unequal
    numbers of samples. Raises it also if the inputs give a free size two values.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        opened = open_session(path, threads=threads)
        self._session, self.threads = opened.session, threads
        self.name = f"onnxruntime {ort.__version__} CPU"
        if opened.set_otherwise:
            self.name += f" ({', '.join(opened.set_otherwise)})"
        self.rounds_to_bf16 = ROUNDED in opened.set_otherwise
        self._batch = fixed_batch(self._session)
        self._tables = [{"name": given.name, "shape": given.shape} for given in self._session.get_inputs()]
        self.types = {given.name: given.type for given in self._session.get_inputs()}
        self.inputs = list(self.types)
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Inputs) -> Batch:
        return in_batches(lambda part: self._run(self.outputs[:1], part), self._checked(inputs), self._batch)[0]

    def run_all(self, inputs: Inputs) -> list[Batch]:
        """Runs the model and returns all outputs, in the order of `outputs`."""
        return in_batches(lambda part: self._run(None, part), self._checked(inputs), self._batch)

    def timed(self, one: Inputs) -> TimedThere:
        """A call of `run` on a batch for `protocol.interleave`, timed by the clock of the model's process. Raises
        ModelError.
        """
        inputs = self._checked(one)
        count = samples_of(inputs)
        size = self._batch or count
        if count > size:
            raise ModelError(f"{self._session.path} is written for a batch of {size}; {count} were to be timed")
        return TimedThere(self._session, self.outputs[:1], filled(inputs, size))

    def _checked(self, inputs: Inputs) -> Inputs:
        """The inputs by the graph's names and in its order. Raises ModelError if they do not fit the graph."""
        if set(inputs) != set(self.inputs):
            raise ModelError(f"{self._session.path} takes the inputs {self.inputs}; given: {list(inputs)}")
        free = [
            {**table, "shape": [None, *table["shape"][1:]]} for table in self._tables
        ]  # the batch is free here: for a graph with a fixed batch, samples are run in parts
        if problem := sizes_problem(inputs, free):
            raise ModelError(f"{self._session.path}: {problem}")
        return {name: inputs[name] for name in self.inputs}

    def _run(self, outputs: list[str] | None, part: Inputs) -> list[Batch]:
        try:
            return self._session.run(outputs, part)
        except Refused as error:
            raise ModelError(f"onnxruntime {ort.__version__} does not run {self._session.path}: {error}") from error

    def close(self) -> None:
        """Frees the process for the next model. Without this call the last reference frees it."""
        self._session.close()


@dataclass(frozen=True)
class TimedThere:
    """A call that is timed in the model's process."""

    session: Session
    outputs: list[str]
    feeds: Inputs

    def __call__(self) -> list[Batch]:
        return self.session.run(self.outputs, self.feeds)

    def block(self, min_s: float, min_n: int) -> NDArray[np.float64]:
        """The time of each call, in milliseconds."""
        return self.session.time(self.outputs, self.feeds, min_s, min_n)


def nchwc_may_end_it(path: Path | str) -> bool:
    """Whether `NCHWC` may end the process on this graph: an fp16 graph with Conv and MatMul.

    No narrower criterion is known.
    """
    graph = onnx.load(path, load_external_data=False).graph
    computes_fp16 = any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer)
    return computes_fp16 and {"Conv", "MatMul"} <= {node.op_type for node in graph.node}


def refuses_fp16_scales(error: Exception) -> bool:
    """Whether onnxruntime failed on fp16 scales, which are meant for TensorRT.

    On a processor with fp16 arithmetic it fuses Q and DQ into operators without fp16 scales (seen with 1.31 on Cortex-A76).
    """
    return "QLinear" in str(error) and "float16" in str(error)


def fixed_batch(session: Session) -> int | None:
    """The batch size that a graph is written for, or None for any size.

    The first axis of the first input with a fixed first axis decides.
    """
    sizes = (given.shape[0] for given in session.get_inputs() if given.shape)
    return next((size for size in sizes if isinstance(size, int)), None)


def in_batches(run: Callable[[Inputs], list[Batch]], inputs: Inputs, size: int | None) -> list[Batch]:
    """The outputs of `run`, computed on `size` samples at a time for a graph with a fixed batch.

    The last part is filled up, and its outputs are cut. Raises ModelError if the inputs hold unequal numbers of samples.
    """
    count = samples_of(inputs)
    if size is None:
        return run(inputs)
    whole = filled(inputs, size)
    parts = [run(rows_of(whole, slice(i, i + size))) for i in range(0, samples_of(whole), size)]
    return [np.concatenate(output)[:count] for output in zip(*parts, strict=True)]


def filled(inputs: Inputs, size: int) -> Inputs:
    """The samples, with the last sample repeated until `size` divides their number."""
    return {
        name: np.concatenate([array, np.repeat(array[-1:], -len(array) % size, axis=0)])
        for name, array in inputs.items()
    }


def samples_of(inputs: Inputs) -> int:
    """The number of samples in the inputs. Raises ModelError if there are no inputs or their numbers differ."""
    rows = {name: len(array) if array.ndim else 0 for name, array in inputs.items()}
    if len(set(rows.values())) != 1:
        raise ModelError(f"{rows} samples were given by input; every input needs as many")
    return next(iter(rows.values()))


def int8_saturates(architecture: str, features: frozenset[str]) -> bool:
    """Whether int8 products saturate: on x86 without a known VNNI instruction."""
    return architecture.lower() in {"x86_64", "amd64", "i386", "i686"} and not features & {
        "avx512_vnni",
        "avx_vnni",
        "amx_int8",
    }


def cpu_features() -> frozenset[str]:
    """The CPU's flags as Linux names them. Empty on other systems."""
    text = _read(Path("/proc/cpuinfo"))
    return frozenset(
        flag for line in text.splitlines() if line.startswith(("flags", "Features")) for flag in _value(line).split()
    )


def machine() -> str:
    """A description of this machine: CPU model, usable cores, CPU features for int8 and fp16, and the system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    features = cpu_features()
    notable = [title for flag, title in NOTABLE_FEATURES if flag in features]
    parts = [cpu_model(), f"{cores} core{'s' if cores > 1 else ''}", " ".join([platform.machine(), *notable])]
    return ", ".join([*parts, f"{platform.system()} {platform.release()}"])


def cpu_model() -> str:
    """The CPU's name as the system gives it. On arm64 Linux a nameless CPU gets the name of its board."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.lower().startswith(("model name", "hardware")) and _value(line):
            return _value(line)
    board = _read(Path("/proc/device-tree/model")).strip("\0\n ")
    return board or platform.processor() or "unknown CPU"


def versions() -> dict[str, str]:
    """The versions of Python, edgekd and the installed libraries that shape its output."""
    found = {"python": platform.python_version()}
    for package in ("edgekd", "numpy", "torch", "torchao", "onnx", "onnxruntime"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _value(line: str) -> str:
    return line.partition(":")[2].strip()


PEAK_MEMORY_SCRIPT = """
import io
import sys
import numpy as np

def status_kb(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))

path, threads, half = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
sys.path.insert(0, sys.argv[4])
from run import OnnxModel
import onnxruntime
with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as stored:
    inputs = {name: stored[name] for name in stored.files}
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = status_kb("VmRSS")
model = OnnxModel(path, threads, half)
for _ in range(3):
    model(inputs)
print(status_kb("VmHWM") - before)
"""


def peak_memory_mb(path: Path, inputs: Inputs, *, threads: int = 1) -> float | None:
    """The peak of resident memory in MB (2^20) that loading an ONNX file and running it on `inputs` adds.

    Measured in a fresh process as the high-water mark (VmHWM) after loading and three runs. The memory of Python, numpy and
    onnxruntime before (VmRSS) is subtracted, and the mark is reset there. None if the kernel does not report it, so outside
    Linux. Raises ModelError if the model cannot be run, and Ended if the process is killed.
    """
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    command = [sys.executable, "-B", "-c", PEAK_MEMORY_SCRIPT, str(path), str(threads), str(nchwc_may_end_it(path))]
    sent = io.BytesIO()
    write_arrays(sent, inputs)
    done = subprocess.run([*command, str(SCRIPTS)], input=sent.getvalue(), capture_output=True, check=False)
    if done.returncode < 0:
        raise Ended(f"the runtime {ending(done.returncode)} where run.py opened and ran the model")
    if done.returncode != 0:
        raise ModelError(
            f"the memory of {path} could not be measured: {done.stderr.decode(errors='replace').strip().splitlines()[-1:]}"
        )
    return int(done.stdout) / 1024
