#!/usr/bin/env python3
"""Runs this bundle: predict an image, a sound or the rows of a table, listen to a stream, verify, or measure.

    python3 run.py cat.png                  the five likeliest classes
    python3 run.py word.wav                 the same for a sound, where the model takes sounds
    python3 run.py --stream < words.wav     the phrases in a stream of 16-bit PCM or WAV, each with its time
    python3 run.py cell.png --mask out.png  of a model that names a class for each pixel: the mask as a picture with a palette
    python3 run.py rows.csv                 the same for each row, where the model takes the columns of a table
    python3 run.py input.npy                the same for an array: an image (uint8, H x W x C) or the graph's own input
    python3 run.py input.npz                the same for arrays by the names of the graph's inputs, of a sample or a batch
    python3 run.py --verify                 every file's SHA-256 and the stored outputs
    python3 run.py --bench                  latency of one inference on this machine
    python3 run.py --engine model.plan ...  the same in TensorRT (build it with build_engine.py)

Needs Python 3.8+, numpy and onnxruntime; with --engine tensorrt and the CUDA runtime instead. Images need Pillow,
sounds that are no plain WAV soundfile.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True  # this folder holds the sent files and nothing else
    if "__file__" in globals() and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]  # this folder: a json.py or a numpy beside this file must not be imported

import argparse
import csv
import ctypes
import datetime
import gc
import hashlib
import importlib
import io
import json
import math
import os
import platform
import re
import stat
import struct
import time
import zipfile
import zlib

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    Array = np.ndarray[Any, Any]
    Table = Mapping[str, Any]  # an input in the manifest: name, dtype, shape, layout

    # TensorRT's classes, by their own names: the conformance test follows them through this file.
    ICudaEngine = Any
    IExecutionContext = Any

HERE = os.path.dirname(os.path.abspath(__file__))
FORMAT = 1
LARGEST = 1 << 32  # bytes of a file that is read
LARGEST_TEXT = 1 << 26  # of the manifest and of golden.npz
MADE_HERE = re.compile(r"model\.plan|timing\.cache|reference_input(_[0-9]+)?\.bin|reference_output\.bin|figures\.json")
WIDEST = 0.25  # of an output's largest magnitude: any model would pass a wider tolerance
NUMPY_TYPES = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


class Failure(Exception):
    """A failure as a message: the fault and the remedy; printed without a traceback."""


def read_file(name: str, most: int) -> bytes:
    """The bytes of a plain file of this bundle. Raise Failure for a link, device, pipe or oversized file."""
    path = os.path.join(HERE, name)
    try:
        state = os.lstat(path)
        if not stat.S_ISREG(state.st_mode) or state.st_size > most:
            raise Failure(f"{name} is no plain file of at most {most >> 20} MB; the bundle is not as it was written")
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise Failure(f"{name} cannot be read: {error}") from error


def read_manifest() -> dict[str, Any]:
    try:
        manifest = json.loads(read_file("manifest.json", LARGEST_TEXT).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Failure(f"manifest.json cannot be read: {type(error).__name__} {str(error)[:200]}") from None
    problem = manifest_problem(manifest)
    if problem:
        raise Failure(f"manifest.json cannot be read as a manifest: {problem}")
    return dict(manifest)


def manifest_problem(manifest: Any) -> str:
    """The fault of a manifest with another kind of value than edgekd writes. Empty without a fault."""
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int or manifest["format"] != FORMAT:
        return "format {!r:.40}; this file reads {}".format(
            str(manifest.get("format")) if isinstance(manifest, dict) else "", FORMAT
        )
    files, stored = manifest.get("files"), manifest.get("golden")
    if not isinstance(files, dict) or not all(isinstance(key, str) and len(key) == 64 for key in files.values()):
        return "`files` is no table of names and SHA-256"
    further = stored.get("further", {}) if isinstance(stored, dict) else None
    if not isinstance(stored, dict) or not isinstance(further, dict):
        return "`golden` is no table"
    for most in (stored.get("tolerance"), *further.values()):
        if type(most) not in (int, float) or not 0 <= most < 1e30:
            return "`golden.tolerance` is {}; a number from 0 is needed".format(
                str(most)[:40] if type(most) is float else "no number"
            )
    problem = inputs_problem(manifest) or task_problem(manifest.get("task", {}), manifest.get("kinds", {}))
    if problem:
        return problem
    texts = [manifest.get(key, "") for key in ("runtime", "precision", "output")]
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        return "`runtime`, `precision` or `output` is no text"
    return ""


def task_problem(task: Any, further: Any) -> str:
    """The fault of the tables `task` and `kinds`, which tell what the outputs are. Empty without a fault."""
    kinds = ("classify", "multilabel", "regress", "segment")
    if not isinstance(further, dict) or not all(kind in kinds for kind in further.values()):
        return "`kinds` is no table of outputs, each one of {}".format(", ".join(kinds))
    if not isinstance(task, dict) or task.get("kind", "classify") not in kinds:
        return "`task.kind` is none of {}".format(", ".join(kinds))
    thresholds = task.get("thresholds", [])
    if not isinstance(thresholds, list) or not all(
        type(each) in (int, float) and 0 <= each <= 1 for each in thresholds
    ):
        return "`task.thresholds` is no list of numbers from 0 to 1"
    return ""


def inputs_problem(manifest: dict[str, Any]) -> str:
    """The fault of the inputs' tables with another kind of value than edgekd writes. Empty without a fault."""
    further = manifest.get("further_inputs", [])
    if not isinstance(further, list):
        return "`further_inputs` is no list of tables"
    tables: dict[str, Any] = {"input": manifest.get("input")}
    tables.update((f"further_inputs.{number}", table) for number, table in enumerate(further))
    for title, table in tables.items():
        problem = input_problem(table)
        if problem:
            return f"`{title}{problem}"
    names = [table["name"] for table in tables.values()]
    if further and (len(set(names)) < len(names) or "" in names):
        return "`further_inputs` names an input twice, or without a name"
    bounds: dict[str, int] = {}
    for title, table in tables.items():
        for size, most in table.get("at_most", {}).items():
            if bounds.setdefault(size, most) != most:
                return f"`{title}.at_most` bounds {size!r:.40} otherwise than the input before it"
    return ""


def input_problem(table: Any) -> str:
    """The fault of an input's table, as a text that follows the table's name. Empty without a fault."""
    shape = table.get("shape") if isinstance(table, dict) else None
    if (
        not isinstance(table, dict)
        or not isinstance(shape, list)
        or not shape
        or not all(isinstance(table.get(key), str) and table[key].isprintable() for key in ("name", "dtype", "layout"))
    ):
        return "` tells no name, dtype, shape and layout"
    names = [size for size in shape if isinstance(size, str)]
    if not all(size is None or size in names or (type(size) is int and 0 < size < 2**31) for size in shape):
        return ".shape` holds other things than sizes"
    if not all(name.isprintable() for name in names):
        return ".shape` names a size by what cannot be shown"
    if table["layout"] and (table["layout"] not in ("NHWC", "NCHW") or len(shape) != 4):
        return ".layout` is none that images have"
    bounds = table.get("at_most", {})
    if not isinstance(bounds, dict) or not all(type(most) is int and 0 < most < 2**31 for most in bounds.values()):
        return ".at_most` is no table of free sizes and their largest"
    if not set(bounds) <= set(names):
        return ".at_most` bounds a size that the shape does not name"
    rate = table.get("sample_rate", 1)
    if type(rate) is not int or not 0 < rate < 2**31 or table.get("mono", "mean") not in ("mean", "left", "right"):
        return ".sample_rate` or `mono` is none that sounds have"
    if "sample_rate" in table and (len(shape) != 2 or type(shape[1]) is not int):
        return ".sample_rate` is of an input without a number of samples"
    return columns_problem(table)


def columns_problem(table: Any) -> str:
    """The fault of what an input's table tells of a table's columns, as `input_problem`. Empty without a fault."""
    columns, missing = table.get("columns", []), table.get("missing", [])
    if not isinstance(missing, list) or not all(isinstance(text, str) for text in missing):
        return ".missing` is no list of texts"
    if not isinstance(columns, list) or not all(isinstance(column, dict) for column in columns):
        return ".columns` is no list of tables"
    parts = ("", "days", "year_sin", "year_cos", "week_sin", "week_cos", "day_sin", "day_cos")
    for column in columns:
        words = column.get("words", [])
        if not isinstance(column.get("name"), str) or column.get("part", "") not in parts:
            return ".columns` holds one without a name, or of another part of a date"
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            return ".columns` holds one whose words are no texts"
        if table["dtype"] != ("int64" if "words" in column else "float32"):
            return ".columns` holds codes and numbers, or another type than theirs"
    if "columns" in table and table["shape"][1:] != [len(columns)]:
        return ".columns` are not as many as the shape tells"
    return ""


def read_labels() -> list[str]:
    return read_file("labels.txt", LARGEST_TEXT).decode("utf-8", "replace").split("\n")[:-1]


# ------------------------------------------------------------------------------------------------------------ runtimes


class OnnxModel:
    """model.onnx in onnxruntime on the CPU. `stand_in`: it stands in for a device with fp16, which few CPUs have."""

    def __init__(self, path: str, threads: int, stand_in: bool = False) -> None:
        try:
            ort = importlib.import_module("onnxruntime")
        except ImportError:
            raise Failure("onnxruntime is not installed; run: python3 -m pip install onnxruntime") from None
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self.name = f"onnxruntime {ort.__version__} CPU"
        if x86_without_vnni():
            # without this entry, 16-bit saturation would change int8 outputs
            options.add_session_config_entry("session.x64quantprecision", "1")
            self.name += " (x64quantprecision)"

        def start() -> Any:
            # A float bias beside quantized inputs stays float, as in the trained model.
            # NchwcTransformer ends the process on some fp16 graphs. Without it only x86 is slower.
            disabled = ["WeightBiasQuantization", *(["NchwcTransformer"] if stand_in else [])]
            return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)

        try:
            try:
                self.session = start()
            except Exception as error:
                if not refuses_fp16_scales(error):
                    raise
                options.add_session_config_entry("session.disable_quant_qdq", "1")
                self.name += f" ({QDQ_APART})"
                self.session = start()
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            hint = (
                " (it has no such kernel; what is bf16 runs in TensorRT alone: see --engine)"
                if "NOT_IMPLEMENTED" in str(error)
                else ""
            )
            raise Failure(f"onnxruntime cannot load {path}{hint}: {str(error).splitlines()[0]}") from None
        self.inputs = [given.name for given in self.session.get_inputs()]
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Every output in the graph's order, for arrays by the names of the inputs."""
        try:
            found: list[Array] = self.session.run(None, inputs)
        except Exception:  # onnxruntime's exceptions share no other base
            # A check before each run would cost time in every figure.
            check_names(inputs, self.inputs)
            raise
        return found


QDQ_APART = "Q and DQ apart"


def refuses_fp16_scales(error: Exception) -> bool:
    """Whether onnxruntime failed on fp16 scales, which are meant for TensorRT.

    On a processor with fp16 arithmetic it fuses Q and DQ into operators without fp16 scales (seen with 1.31 on Cortex-A76).
    """
    return "QLinear" in str(error) and "float16" in str(error)


def x86_without_vnni() -> bool:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return True
    return not any(flag in text for flag in ("avx512_vnni", "avx_vnni", "amx_int8"))


class EngineModel:
    """A TensorRT engine. A call includes the copies to and from the GPU; the steps can also run apart."""

    def __init__(self, path: str) -> None:
        try:
            trt = importlib.import_module("tensorrt")
        except ImportError:
            raise Failure("tensorrt's Python package is not installed; JetPack has it as python3-libnvinfer") from None
        self.trt = trt
        self.cuda = Cuda()
        self.name = f"TensorRT {trt.__version__}, transfers included"
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = True  # an engine built with --version-compatible carries its own runtime
        with open(path, "rb") as file:
            engine: ICudaEngine = runtime.deserialize_cuda_engine(file.read())
        if engine is None:
            raise Failure(f"{path} was built by another TensorRT or for another GPU; run build_engine.py here")
        self.runtime, self.engine = runtime, engine  # the engine needs its runtime alive
        self.context: IExecutionContext = engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
        self.buffers: dict[str, tuple[int, int]] = {}
        self.stream = self.cuda.stream()

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Every output in the engine's order, for arrays by the names of the inputs."""
        results = self.place(inputs)
        self.execute()
        for name, result in zip(self.outputs, results):  # noqa: B905 (Python 3.8)
            self.cuda.to_host(result, self.buffers[name][0], self.stream)
        self.cuda.synchronize(self.stream)
        return results

    def place(self, inputs: dict[str, Array]) -> list[Array]:
        """Copies a batch to the GPU, and returns the arrays for its outputs."""
        check_names(inputs, self.inputs)
        context = self.context
        # kept, because the copies may still read these arrays
        self.placed = {name: self.as_taken(name, inputs[name]) for name in self.inputs}
        for name, array in self.placed.items():  # TensorRT knows the outputs' shapes once those of all inputs are set
            if not context.set_input_shape(name, tuple(array.shape)):
                raise Failure(f"the engine takes no input {name!r} of shape {array.shape}")
            context.set_tensor_address(name, self.buffer(name, array.nbytes))
        results = []
        for name in self.outputs:  # TensorRT asks for an address for each
            dtype = NUMPY_TYPES[self.engine.get_tensor_dtype(name).name]
            results.append(np.empty(tuple(context.get_tensor_shape(name)), dtype))
            context.set_tensor_address(name, self.buffer(name, results[-1].nbytes))
        for name, array in self.placed.items():
            self.cuda.to_device(self.buffers[name][0], array, self.stream)
        return results

    def as_taken(self, name: str, array: Array) -> Array:
        """An array in the engine's own type: before release 10 TensorRT takes int64 as int32. Raise Failure for a loss."""
        dtype = NUMPY_TYPES.get(self.engine.get_tensor_dtype(name).name, array.dtype)
        taken = np.ascontiguousarray(array, dtype)
        if taken.dtype != array.dtype and not np.array_equal(taken, array):
            raise Failure(
                f"input {name!r} is {array.dtype}; the engine takes {taken.dtype}, which does not hold its values"
            )
        return taken

    def execute(self) -> None:
        if not self.context.execute_async_v3(self.stream):
            raise Failure("TensorRT could not run the engine; its message stands above")

    def compute(self) -> None:
        """Runs an inference on the placed batch, without copies, for the figures `transfers excluded`."""
        self.execute()
        self.cuda.synchronize(self.stream)

    def buffer(self, name: str, size: int) -> int:
        """Device memory of at least `size` bytes, kept between calls."""
        address, held = self.buffers.get(name, (0, 0))
        if held < size:
            if held:
                self.cuda.free(address)
            self.buffers[name] = (self.cuda.allocate(size), size)
        return self.buffers[name][0]


def check_names(names: Iterable[str], wanted: Sequence[str]) -> None:
    """Raise Failure if the arrays' names differ from the names of the model's inputs."""
    if set(names) != set(wanted):
        raise Failure("the model takes the inputs {}; given: {}".format(", ".join(wanted), ", ".join(names)))


class Cuda:
    """The calls of the CUDA runtime that an engine needs, so that no further package is needed."""

    LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")

    def __init__(self) -> None:
        for name in self.LIBRARIES:
            try:
                self.library = ctypes.CDLL(name)
                return
            except OSError:
                continue
        raise Failure(f"the CUDA runtime was not found; tried {self.LIBRARIES}. Add its folder to LD_LIBRARY_PATH")

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise Failure(f"{name} failed with CUDA error {code}")

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self.call("cudaStreamCreate", ctypes.byref(handle))
        return int(handle.value or 0)

    def allocate(self, size: int) -> int:
        address = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        self.call("cudaFree", ctypes.c_void_p(address))

    def to_device(self, address: int, array: Array, stream: int) -> None:
        self.copy(address, array.ctypes.data, array.nbytes, 1, stream)

    def to_host(self, array: Array, address: int, stream: int) -> None:
        self.copy(array.ctypes.data, address, array.nbytes, 2, stream)

    def copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        self.call(
            "cudaMemcpyAsync", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size),
            ctypes.c_int(kind), ctypes.c_void_p(stream),
        )  # fmt: skip

    def synchronize(self, stream: int) -> None:
        self.call("cudaStreamSynchronize", ctypes.c_void_p(stream))


# --------------------------------------------------------------------------------------------------------------- input


def input_tables(manifest: Mapping[str, Any]) -> list[Table]:
    """The manifest's tables of the graph's inputs, in the graph's order."""
    return [manifest["input"], *manifest.get("further_inputs", [])]


def rows_of(inputs: Mapping[str, Array], at: slice | Array) -> dict[str, Array]:
    """Some samples, as the same rows of every input."""
    return {name: np.ascontiguousarray(array[at]) for name, array in inputs.items()}


def load_input(path: str, manifest: dict[str, Any]) -> dict[str, Array]:
    """A file as the graph takes it: input -> array with a batch dimension. Raise Failure."""
    tables = input_tables(manifest)
    if path.endswith(".npz"):
        return load_arrays(path, tables)
    if any("columns" in table for table in tables):
        return load_rows(path, tables)
    if len(tables) > 1:
        raise Failure(
            f"this model takes {len(tables)} inputs: give an .npz with an array for each by its name; {takes(tables)}"
        )
    inputs = {tables[0]["name"]: load_one(path, tables[0], manifest)}
    problem = sizes_problem(inputs, tables)
    if problem:
        raise Failure(f"{path}: {problem}")
    return inputs


def load_arrays(path: str, tables: Sequence[Table]) -> dict[str, Array]:
    """Arrays by input name. Each may be a batch, or a sample without the batch dimension. Raise Failure."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
    except Exception as error:  # as for one array
        raise Failure(f"{path} cannot be read as arrays: {error}") from error
    names = [table["name"] for table in tables]
    missing, unknown = [n for n in names if n not in arrays], [n for n in arrays if n not in names]
    if missing:
        raise Failure(f"{path} lacks {listed(missing)}; {takes(tables)}")
    if unknown:
        raise Failure(f"{path} holds {listed(unknown)}, which is no input; {takes(tables)}")
    for table in tables:
        name, shape = table["name"], table["shape"]
        given = arrays[name]
        batch = given[None] if given.ndim == len(shape) - 1 else given
        if str(given.dtype) != table["dtype"] or not fits(batch.shape, shape):
            raise Failure(
                "{}: {!r} is {} {}; the graph takes {} {}".format(
                    path, name, given.dtype, list(given.shape), table["dtype"], shape
                )
            )
        arrays[name] = np.ascontiguousarray(batch)
        codes = [2 + len(column["words"]) for column in table.get("columns", []) if "words" in column]
        if codes and not ((batch >= 0) & (batch < np.array(codes))).all():
            raise Failure(f"{path}: {name!r} holds a code that its category has not; each has from 0 to {codes} codes")
    problem = sizes_problem(arrays, tables)
    if problem:
        raise Failure(f"{path}: {problem}")
    return arrays


def takes(tables: Sequence[Table]) -> str:
    """The graph's inputs in words."""
    inputs = ["{!r} {} {}".format(table["name"], table["dtype"], table["shape"]) for table in tables]
    return "the graph takes {}".format(", ".join(inputs))[:500]


def listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))[:200]


def sizes_problem(inputs: Mapping[str, Array], tables: Sequence[Table]) -> str:
    """The fault of a free size with two values or above its bound. Empty without a fault.

    Unequal numbers of samples are a fault too.
    """
    bounds = {size: most for table in tables for size, most in table.get("at_most", {}).items()}
    known: dict[str, tuple[int, str]] = {}
    for table in tables:
        name = table["name"]
        for size, n in zip(table["shape"], inputs[name].shape):  # noqa: B905 (Python 3.8)
            if not isinstance(size, str):
                continue
            first, before = known.setdefault(size, (n, name))
            if n != first:
                return f"the size {size!r:.40} is {first} in {before!r:.80} and {n} in {name!r:.80}; it is one size in all inputs"
            if n > bounds.get(size, n):
                return f"the size {size!r:.40} is {n} in {name!r:.80}; it is at most {bounds[size]}"
    rows = {name: array.shape[0] for name, array in inputs.items() if array.ndim}
    if len(set(rows.values())) > 1:
        return "there are {}; every input needs as many".format(
            ", ".join(f"{n} samples of {name!r:.80}" for name, n in rows.items())[:400]
        )
    return ""


def load_one(path: str, graph: Table, manifest: dict[str, Any]) -> Array:
    """A picture, a sound or an array, for a graph with a single input. Raise Failure."""
    if path.endswith(".npy"):
        try:
            array = np.load(path, allow_pickle=False)
        except (
            Exception
        ) as error:  # a damaged file makes numpy raise errors of many kinds, also MemoryError for false sizes
            raise Failure(f"{path} cannot be read as an array: {error}") from error
        if array.dtype == np.dtype(graph["dtype"]) and fits(array.shape, graph["shape"]):
            return np.asarray(array)
        if array.dtype == np.dtype(graph["dtype"]) and fits((1, *array.shape), graph["shape"]):
            return np.asarray(array[None])
        if array.dtype != np.uint8 or array.ndim not in (2, 3):
            raise Failure(
                "{} holds {} {}; the graph takes {} {}, an image is uint8 [height, width, channels]".format(
                    path, array.dtype, array.shape, graph["dtype"], graph["shape"]
                )
            )
    elif "sample_rate" in graph:
        return read_sound(path, graph)
    elif graph["layout"] not in ("NHWC", "NCHW"):
        raise Failure("this model takes no images but {} {}: give it as .npy".format(graph["dtype"], graph["shape"]))
    else:
        array = None
    return preprocess(read_image(path, array, graph), graph, manifest)


def fits(shape: tuple[int, ...], wanted: list[Any]) -> bool:
    """Whether a shape has the wanted number of dimensions and fixed sizes. A free dimension is a name or null."""
    return len(shape) == len(wanted) and all(
        not isinstance(size, int) or size == shape[i] for i, size in enumerate(wanted)
    )


def read_image(path: str, array: Array | None, graph: Table) -> Array:
    """A picture as uint8 `[height, width, channels]` of the graph's size. Raise Failure."""
    channels, height, width = image_size(graph)
    if array is not None:
        array = array[:, :, None] if array.ndim == 2 else array
        if fits(array.shape, [height, width, channels]):
            return array
    if channels not in (1, 3):
        raise Failure(f"this model takes {channels} channels, which no picture has; give {path} as .npy of its shape")
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError:
        raise Failure(
            "reading or resizing an image needs Pillow; run: python3 -m pip install pillow (or give a .npy)"
        ) from None
    fixed = isinstance(height, int) and isinstance(width, int)
    try:
        with pillow.open(path) if array is None else pillow.fromarray(array.squeeze()) as image:
            return as_pixels(pillow, image, channels, (height, width) if fixed else None)
    except Exception as error:  # a damaged file makes Pillow raise errors of many kinds
        raise Failure(f"{path} is not an image that can be read: {error}") from None


# The rules for pictures are those of edgekd/inputs/picture.py, which reads the pictures of the training.
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # its values -> Pillow's numbers of transpositions
TELLS_ORIENTATION = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}


def as_pixels(pillow: Any, image: Any, channels: int, size: tuple[int, int] | None) -> Array:
    """The pixels of an opened picture, uint8 `[height, width, channels]`.

    The picture is turned as EXIF says and reduced to the upper 8 of 16 bits, without alpha. Resizing (bilinear) comes last.
    """
    turn = turn_of(image)
    image = eight_bits(pillow, image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode == "LAB":
        raise ValueError("it is in LAB; convert it to RGB")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # same colours: a direct conversion would make Pillow warn
    if image.mode != mode:
        image = image.convert(mode)
    if turn is not None:
        image = image.transpose(turn)
    if size is not None and (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), pillow.BILINEAR)
    pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def turn_of(image: Any) -> Any:
    """The transposition for a picture's EXIF orientation, or None without one or for damaged EXIF data.

    The function reads the whole picture.
    """
    image.load()
    if not (TELLS_ORIENTATION & set(image.info) or image.format == "TIFF"):
        return None
    try:
        return TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # damaged EXIF data makes Pillow raise errors of many kinds
        return None


def eight_bits(pillow: Any, image: Any) -> Any:
    """The picture with 8 bits a value: of 16 bits the upper 8 stay. Raises ValueError for values without a known white."""
    if image.mode[0] not in "IF":
        return image
    # 16-bit grey is "I;16", in some formats and releases of Pillow "I", whose values reach further.
    values = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(
            f"its values are {values.dtype}, of which none is known as white; convert it to 8 bits a channel"
        )
    return pillow.fromarray((np.clip(values, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8))


def image_size(graph: Table) -> tuple[Any, Any, Any]:
    """(channels, height, width) of the graph's input."""
    _, a, b, c = graph["shape"]
    return (c, a, b) if graph["layout"] == "NHWC" else (a, b, c)


def preprocess(image: Array, graph: Table, manifest: dict[str, Any]) -> Array:
    """The batch for the graph: uint8 unchanged if the graph normalises, else (x / 255 - mean) / std per channel.

    The result equals that of the training to the bit.
    """
    batch = image[None]
    if graph["dtype"] != "uint8":
        mean, std = (np.asarray(manifest["preprocess"][name], np.float64) for name in ("mean", "std"))
        scale, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
        batch = (batch.astype(np.float32) * scale + shift).astype(graph["dtype"])
    if graph["layout"] == "NCHW":
        batch = batch.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(batch)


def read_sound(path: str, graph: Table) -> Array:
    """float32 [1, samples]: cut, or with zeros at the end, to the length of the graph. Other rates are refused."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST)
        found = read_wav(data)
        rate, sound = read_by_soundfile(data) if found is None else found
        problem = sound_problem(sound)
        if problem:
            raise ValueError(problem)
        wave = one_channel(sound, graph.get("mono", ""))
    except (OSError, ValueError) as error:
        raise Failure(f"{path} is not a sound that can be read: {error}") from None
    if rate != graph["sample_rate"]:
        raise Failure(
            "{} has a rate of {} Hz, the model takes {} Hz; convert it, for example: ffmpeg -i {} -ar {} converted.wav".format(
                path, rate, graph["sample_rate"], path, graph["sample_rate"]
            )
        )
    batch = np.zeros((1, graph["shape"][1]), np.float32)
    batch[0, : len(wave)] = wave[: batch.shape[1]]
    return batch


def read_by_soundfile(data: bytes) -> tuple[int, Array]:
    """(rate, float32 [samples, channels]) of a sound in a format that soundfile knows."""
    try:
        soundfile = importlib.import_module("soundfile")
    except (ImportError, OSError):
        raise Failure("sounds that are no plain WAV need soundfile; run: python3 -m pip install soundfile") from None
    try:
        sound, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except Exception as error:  # on a damaged file soundfile raises whatever it stumbles over
        reason = str(error).rpartition(": ")[2][:200]
        raise ValueError(f"no sound that soundfile reads ({reason}); possible are WAV, FLAC, OGG and MP3") from None
    return int(rate), sound


# What a sound is: the same as edgekd/inputs/sound.py says for the sounds that the model was trained on.
LOUDEST = 4.0  # times full scale: lossy formats go a little beyond 1, other scales far beyond


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


# What a row is: the same as edgekd/inputs/cells.py says for the rows that the model was trained on.
PARTS = ("days", "year_sin", "year_cos", "week_sin", "week_cos", "day_sin", "day_cos")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]*)?)?Z?)?")
LARGEST_NUMBER = 3.4e38  # of float32, about


def load_rows(path: str, tables: Sequence[Table]) -> dict[str, Array]:
    """The rows of a CSV by the names of the graph's inputs, each `[rows, columns]`. Raise Failure."""
    names = list(dict.fromkeys(column["name"] for table in tables for column in table["columns"]))
    wanted = "this model takes a CSV whose first line names the columns {}".format(printable(", ".join(names)))
    if not path.lower().endswith(".csv"):
        raise Failure(f"{path} is no .csv: {wanted}; or an .npz, {takes(tables)}")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, skipinitialspace=True) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise Failure(f"{path} cannot be read as a CSV: {error}") from None
    header = [name.strip() for name in lines[0]] if lines else []
    lacking = [name for name in names if name not in header]
    if lacking:
        raise Failure("{} lacks the columns {}; {}".format(path, printable(", ".join(lacking)), wanted))
    if len(lines) < 2 or len(set(header)) < len(header):
        raise Failure(f"{path} holds no rows, or names a column twice; {wanted}")
    codes = {
        column["name"]: {word: 2 + number for number, word in enumerate(column["words"])}
        for table in tables
        for column in table["columns"]
        if "words" in column
    }
    rows: dict[str, list[list[float]]] = {table["name"]: [] for table in tables}
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise Failure(f"{path} row {number} has {len(line)} values for {len(header)} columns")
        row = dict(zip(header, line))  # noqa: B905 (Python 3.8)
        try:
            for table in tables:
                rows[table["name"]].append(values_of(row, table, codes))
        except ValueError as error:
            raise Failure(f"{path} row {number}: {error}") from None
    return {table["name"]: np.array(rows[table["name"]], table["dtype"]) for table in tables}


def values_of(row: Mapping[str, str], table: Table, codes: Mapping[str, Mapping[str, int]]) -> list[float]:
    """A row's numbers, NaN for no value, or its codes: 0 for a word that training had not, 1 for no value."""
    values: list[float] = []
    for column in table["columns"]:
        name, part = column["name"], column.get("part", "")
        text = row[name].strip()
        if text in table.get("missing", []):
            text = ""
        try:
            if "words" in column:
                values.append(codes[name].get(text, 0) if text else 1)
            elif not text:
                values.append(math.nan)
            else:
                values.append(date_numbers(date_in(text))[PARTS.index(part)] if part else number_in(text))
        except ValueError as error:
            kind = "dates" if part else "numbers"
            told = (printable(name), printable(text)[:80], error, kind)
            raise ValueError("column {} holds {!r}, which {}; in train the column holds {}".format(*told)) from None
    return values


def number_in(text: str) -> float:
    """The number that a text says. Raises ValueError with the reason for a text that says none."""
    if text.lower().lstrip("+-") in ("inf", "infinity"):
        raise ValueError("is infinite")
    if not NUMBER.fullmatch(text):
        raise ValueError("is no number")
    value = float(text)
    if abs(value) > LARGEST_NUMBER:
        raise ValueError("is beyond the numbers of float32")
    return value


def date_in(text: str) -> datetime.datetime:
    """The date that a text says. Raises ValueError with the reason for a text that says none."""
    found = DATE.fullmatch(text)
    if found is None:
        raise ValueError("is no date as 2026-11-28 or 2026-11-28 13:30")
    try:
        return datetime.datetime(*(int(part or 0) for part in found.groups()))  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"is no date ({error})") from None


def date_numbers(date: datetime.datetime) -> list[float]:
    """The numbers of a date, in the order of PARTS: days since 1970, then its place in the year, the week and the day."""
    day = (date.hour * 3600 + date.minute * 60 + date.second) / 86400
    days = (date - datetime.datetime(1970, 1, 1)).days + day
    numbers = [days]
    for place in ((date.timetuple().tm_yday - 1 + day) / 365.25, date.weekday() / 7, day):
        numbers += [math.sin(2 * math.pi * place), math.cos(2 * math.pi * place)]
    return numbers


# ------------------------------------------------------------------------------------------------------------- streams

ENDLESS = 0x7FFF0000  # bytes: from here on a header's size is what a writer to a pipe tells, who knows no size
PACKED = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"RF64": "RF64", b"RIFX": "RIFX", b"FORM": "AIFF"}


class Stream:
    """16-bit PCM as it comes, bare or behind the header of a WAV, as float32 of one channel. Raise Failure for other sound."""

    def __init__(self, file: Any, graph: Table) -> None:
        self.file, self.graph = file, graph
        self.channels, self.left = 1, math.inf  # bytes that the header still promises
        self.promised = False
        self.first = file.read(12)
        if self.first[:4] == b"RIFF" and self.first[8:12] == b"WAVE":
            self.first = b""
            self.read_header()
        for magic, name in PACKED.items():
            if self.first.startswith(magic):
                raise Failure(f"standard input is {name}; --stream takes 16-bit PCM or a WAV of it")

    def exactly(self, count: int) -> bytes:
        found: bytes = self.file.read(count)
        if len(found) < count:
            raise Failure("standard input is a WAV with a damaged header: it ends before its samples")
        return found

    def read_header(self) -> None:
        """Reads up to the first sample."""
        form = b""
        while True:
            name, size = struct.unpack("<4sI", self.exactly(8))
            if name == b"data":
                break
            if size > LARGEST_TEXT:
                raise Failure(
                    f"standard input is a WAV with a damaged header: a part of {size} bytes before its samples"
                )
            content = self.exactly(size + size % 2)
            form = content if name == b"fmt " else form
        if len(form) < 16:
            raise Failure("standard input is a WAV with a damaged header: its format is missing")
        code, channels, rate, _, block, bits = struct.unpack("<HHIIHH", form[:16])
        if code == 0xFFFE and len(form) >= 26:  # the extended header has the format behind it
            code = int.from_bytes(form[24:26], "little")
        if (code, bits) != (1, 16):
            raise Failure(f"standard input is a WAV of format {code} with {bits} bits; --stream takes 16-bit PCM")
        if not channels or block != 2 * channels:
            raise Failure(f"standard input is a WAV with a damaged header: {channels} channels, {block} bytes a sample")
        if rate != self.graph["sample_rate"]:
            raise Failure(
                "standard input has a rate of {} Hz, the model takes {} Hz".format(rate, self.graph["sample_rate"])
            )
        try:
            one_channel(np.zeros((1, channels), np.float32), self.graph.get("mono", ""))
        except ValueError as error:
            raise Failure(f"standard input cannot be used: {error}") from None
        self.channels, self.promised = channels, 0 < size < ENDLESS
        self.left = size if self.promised else math.inf

    def __call__(self, count: int) -> Array:
        """The next `count` samples; fewer only at the end."""
        block = 2 * self.channels
        wanted = int(min(count * block, self.left))
        data = self.first[:wanted]
        self.first = self.first[wanted:]
        data += self.file.read(wanted - len(data))
        self.left -= len(data)
        if self.promised and len(data) < wanted:
            raise Failure(f"standard input ends {int(self.left)} bytes before the end that its header tells")
        whole = np.frombuffer(data[: len(data) // block * block], "<i2").reshape(-1, self.channels)
        return one_channel((whole / 32768.0).astype(np.float32), self.graph.get("mono", ""))


class Recognizer:
    """The phrases in the scores of window after window, as RecognizeCommands of TensorFlow tells them.

    A phrase is told once the mean of its scores over the last `windows` windows reaches the threshold. For `pause` seconds after
    it none is told. The same phrase is told again only after its mean was below half the threshold.
    """

    def __init__(self, silent: set[int], windows: int, threshold: float, pause: float) -> None:
        self.silent, self.windows, self.threshold, self.pause = silent, windows, threshold, pause
        self.scores: list[Array] = []
        self.heard, self.last = -1, -math.inf

    def __call__(self, at: float, scores: Array) -> tuple[int, float] | None:
        """(class, mean score) of a phrase that is new at `at` seconds."""
        self.scores = [*self.scores, scores][-self.windows :]
        if len(self.scores) < self.windows:
            return None
        mean = np.mean(self.scores, axis=0)
        if self.heard >= 0 and mean[self.heard] < self.threshold / 2:
            self.heard = -1
        top = int(np.argmax(mean))
        if top in self.silent or top == self.heard or at - self.last < self.pause:
            return None
        if not mean[top] >= self.threshold:  # as of NaN, which a damaged model gives
            return None
        self.heard, self.last = top, at
        return top, float(mean[top])


def windows_of(stream: Stream, length: int, hop: int, behind: int) -> Iterator[tuple[int, Array]]:
    """(samples heard, the last `length` of them as float32 [1, length]): at first once `length` are heard, then every `hop`.

    A shorter stream ends in zeros, as a file does, and `behind` windows with zeros end every stream: the mean of its last
    phrase would lack them. Raise Failure for a stream without samples.
    """
    first = stream(length)
    if not len(first):
        raise Failure("standard input holds no samples")
    window, heard = np.zeros(length, np.float32), len(first)
    window[:heard] = first
    yield heard, window[None].copy()
    while behind:
        new = stream(hop)
        behind -= len(new) < hop
        heard += len(new)
        window = np.concatenate([window[hop:], new, np.zeros(hop - len(new), np.float32)])
        yield heard, window[None]


def listen(model: Callable[..., Any], manifest: dict[str, Any], options: argparse.Namespace, file: Any) -> None:
    """Prints time, class and score of each phrase in a stream; at its end, on standard error, the real-time factor."""
    graph, labels = manifest["input"], read_labels()
    unknown = [name for name in options.background if name not in labels]
    if unknown:
        raise Failure(f"--background {listed(unknown)}: no such class; the model's are {listed(labels)}")
    rate, length = graph["sample_rate"], graph["shape"][1]
    window_ms = 1000 * length / rate
    hop_ms, smooth_ms, pause_ms = (
        share * window_ms if given is None else given
        for share, given in ((0.1, options.hop_ms), (0.5, options.smooth_ms), (1.0, options.suppress_ms))
    )
    hop = round(hop_ms * rate / 1000)
    if not 0 < hop <= length:
        raise Failure(f"--hop-ms {hop_ms:g} is {hop} samples; from 1 to the {length} of a window are possible")
    count = max(1, round(smooth_ms * rate / 1000 / hop))
    recognizer = Recognizer(
        {labels.index(name) for name in options.background}, count, options.threshold, pause_ms / 1000
    )
    busy, n, heard = 0.0, 0, 0
    try:
        for heard, window in windows_of(Stream(file, graph), length, hop, count):
            start = time.perf_counter()
            output = run_on(model, {graph["name"]: window}, "the stream")[0]
            scores = probabilities(output.reshape(-1), manifest)
            at = (length + n * hop) / rate
            found = recognizer(at, scores)
            busy, n = busy + time.perf_counter() - start, n + 1
            if found is not None:
                label = labels[found[0]] if found[0] < len(labels) else f"class {found[0]}"
                print(f"{min(at, heard / rate):9.2f} s  {label}  {found[1]:.3f}", flush=True)
    finally:
        if n:
            seconds = heard / rate
            print(
                f"{seconds:.2f} s of sound, {n} windows, {busy:.3g} s computed: real-time factor {busy / seconds:.3g}",
                file=sys.stderr,
            )


def probabilities(output: Array, manifest: Mapping[str, Any]) -> Array:
    """float64 of a sample's scores: of logits their softmax."""
    scores = output.astype(np.float64)
    if manifest["output"] == "logits":
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return scores


# ------------------------------------------------------------------------------------------------------------ commands


def predict(model: Callable[..., Any], path: str, manifest: dict[str, Any], mask: str = "") -> None:
    """Prints the answer for each sample of a batch: of classes the five likeliest of each output.

    The first output has no title. Each further output (a task) is titled by its name. mask: the file for the first mask of
    pixels.
    """
    kinds = {"": manifest.get("task", {}).get("kind", "classify"), **manifest.get("kinds", {})}
    tasks = [("", read_labels()), *manifest.get("tasks", {}).items()]
    inputs = load_input(path, manifest)
    n, noun = len(inputs[manifest["input"]["name"]]), "row" if path.lower().endswith(".csv") else "sample"
    if noun == "row":  # one at a time: a graph or an engine may be fixed to batch 1
        runs = [run_on(model, rows_of(inputs, slice(i, i + 1)), path) for i in range(n)]
        outputs = [np.concatenate(each) for each in zip(*runs)]  # noqa: B905 (Python 3.8)
    else:
        outputs = run_on(model, inputs, path)
    named = next((task for task, kind in kinds.items() if kind == "segment"), "")
    if "segment" in kinds.values() and n > 1:
        raise Failure(f"{path} holds {n} samples; a mask is written for one: give one picture")
    for number in range(n):
        if n > 1:
            print(f"{noun} {number + 1}:")
        for (task, labels), output in zip(tasks, outputs):  # noqa: B905 (Python 3.8)
            if task:
                print(f"{task}:")
            kind = kinds.get(task, "classify")
            if kind == "classify":
                show_classes(probabilities(output[number].reshape(-1), manifest), labels)
                continue
            place = mask if mask and task == named else mask_beside(path, task)
            SHOWN[kind](output[number], labels, {} if task else manifest["task"], path, place)


def show_classes(scores: Array, labels: Sequence[str]) -> None:
    """Prints the five likeliest classes."""
    for index in np.argsort(-scores, kind="stable")[:5]:
        label = labels[index] if index < len(labels) else f"class {index}"
        print(f"{100 * scores[index]:6.2f} %  {label}")


def show_labels(output: Array, labels: Sequence[str], task: Table, path: str, mask: str) -> None:
    """Prints the labels whose probability is above their threshold, the likeliest first."""
    probabilities = 0.5 * (1 + np.tanh(0.5 * output.astype(np.float64)))  # the sigmoid, which does not overflow
    thresholds = np.array(task.get("thresholds") or [0.5] * len(labels))
    if len(labels) != len(probabilities) or len(thresholds) != len(probabilities):
        raise Failure(f"{len(labels)} labels and {len(thresholds)} thresholds for {len(probabilities)} outputs")
    above = [index for index in np.argsort(-probabilities, kind="stable") if probabilities[index] > thresholds[index]]
    for index in above:
        print(f"{100 * probabilities[index]:6.2f} %  {labels[index]}")
    if not above:
        index = int(probabilities.argmax())
        print(f"no label; the likeliest is {labels[index]}, {100 * probabilities[index]:.2f} %")


def show_values(output: Array, labels: Sequence[str], task: Table, path: str, mask: str) -> None:
    """Prints each value with its name."""
    for index, value in enumerate(output.astype(np.float64).reshape(-1)):
        print("{:.6g}  {}".format(value, labels[index] if index < len(labels) else f"value {index}"))


def show_mask(output: Array, labels: Sequence[str], task: Table, path: str, mask: str) -> None:
    """Writes the class of each pixel of the picture at `path`, and prints the share of each class that occurs.

    The mask is a picture with a palette. It has the size of the picture, whose pixels take the class of the nearest output.
    """
    if output.ndim != 3:
        raise Failure(f"the model gives {list(output.shape)} for a sample; a mask needs [classes, height, width]")
    pixels = output.argmax(0).astype(np.uint8)
    height, width = picture_size(path) or pixels.shape
    pixels = pixels[nearest(height, pixels.shape[0])][:, nearest(width, pixels.shape[1])]
    for index in np.argsort(-np.bincount(pixels.reshape(-1)), kind="stable"):
        share = 100 * float((pixels == index).mean())
        if share:
            print("{:6.2f} %  {}".format(share, labels[index] if index < len(labels) else f"class {index}"))
    with open(mask, "wb") as file:
        file.write(png_of(pixels, len(labels)))
    print(f"mask: {mask}")


SHOWN: dict[str, Callable[[Array, Sequence[str], Table, str, str], None]] = {
    "multilabel": show_labels, "regress": show_values, "segment": show_mask,
}  # fmt: skip


def picture_size(path: str) -> tuple[int, int] | None:
    """(height, width) of a picture, as EXIF turns it; None for an array that is no picture."""
    if path.endswith(".npz"):
        return None
    if path.endswith(".npy"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return (array.shape[0], array.shape[1]) if array.dtype == np.uint8 and array.ndim in (2, 3) else None
    pillow = importlib.import_module("PIL.Image")  # it has read this picture before
    with pillow.open(path) as image:
        turned = turn_of(image) in (2, 4, 5, 6)  # Pillow's transpositions that swap both sides
        return (image.width, image.height) if turned else (image.height, image.width)


def nearest(n: int, of: int) -> Array:
    """For each of `n` places along an axis the nearest of `of` places along it."""
    return (np.arange(n) * 2 + 1) * of // (2 * n)


def mask_beside(path: str, task: str) -> str:
    """The file for a mask if none is named, beside the picture.

    It ends in `.mask.png`, with a further task's name before that.
    """
    return os.path.splitext(path)[0] + (f".{task}" if task else "") + ".mask.png"


def palette(classes: int) -> bytes:
    """The colours of classes as in PASCAL VOC: the bits of the number, spread over red, green and blue from the top."""
    colours = np.zeros((classes, 3), np.uint8)
    for number in range(classes):
        for bit in range(8):
            for channel in range(3):
                colours[number, channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.tobytes()


def png_of(pixels: Array, classes: int) -> bytes:
    """A PNG with a palette whose pixels uint8 [height, width] are numbers of classes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = pixels.shape
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), pixels], 1
    ).tobytes()  # each row begins with its filter, none
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"PLTE", palette(max(classes, int(pixels.max()) + 1))),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, content) for name, content in parts)


def run_on(model: Callable[..., Any], inputs: dict[str, Array], what: str) -> list[Array]:
    """A model's outputs. Raises Failure if the runtime does not run the model on these inputs."""
    try:
        return list(model(inputs))
    except Failure:
        raise
    except Exception as error:  # a runtime's exceptions share no other base
        reason = (str(error).splitlines() or [""])[0][:300]
        raise Failure(f"the model does not run on {what}: {reason}") from None


def verify(manifest: dict[str, Any], start: Callable[[], Any]) -> bool:
    """Whether all files and the stored outputs are right; prints a line for each.

    Hashes come first: a changed model is not run, nor is a model beside unlisted files.
    """
    rows = [(name, file_problem(name, expected)) for name, expected in sorted(manifest["files"].items())]
    unlisted = sorted(set(os.listdir(HERE)) - set(manifest["files"]) - {"manifest.json"})
    foreign = [name for name in unlisted if not MADE_HERE.fullmatch(name)]
    rows += [(name, "not listed in the manifest") for name in foreign]
    for name, problem in rows:
        print("{}  {}{}".format("FAILED" if problem else "ok    ", printable(name), problem and ": " + problem))
    if any(problem for _, problem in rows):
        print("FAILED  stored outputs: not run, files differ")
        return False
    ok, detail = verify_outputs(start(), manifest)
    print("{}  stored outputs: {}".format("ok    " if ok else "FAILED", detail))
    return ok


def printable(text: str) -> str:
    """A name that is safe to print on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:300]


def golden(folder: str | os.PathLike[str], manifest: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The stored inputs by name, as the graph takes them, and their stored outputs: the first as "", others by name.

    Raise Failure for outputs or tolerances that prove nothing.
    """
    arrays, tables = read_arrays(os.path.join(folder, "golden.npz")), input_tables(manifest)
    inputs = stored_inputs(arrays, tables)
    count = len(inputs[tables[0]["name"]])
    outputs = {
        key[len("outputs.") :]: value for key, value in arrays.items() if key == "outputs" or key[:8] == "outputs."
    }
    tolerances = {"": manifest["golden"]["tolerance"], **manifest["golden"].get("further", {})}
    if set(outputs) != set(tolerances) or "" not in outputs:
        raise Failure(
            f"golden.npz holds the outputs {sorted(outputs)}, the manifest tolerances for {sorted(tolerances)}"
        )
    for name, output in outputs.items():
        largest = float(np.abs(output.astype(np.float64)).max()) if output.ndim > 1 and output.size else math.nan
        if not math.isfinite(largest) or len(output) != count:
            raise Failure(
                f"golden.npz: output {name!r} is {list(output.shape)}, or not finite; one row an input is needed"
            )
        if not float(tolerances[name]) <= WIDEST * largest:
            raise Failure(
                f"the tolerance of output {name!r} is {float(tolerances[name]):.3g} at outputs up to {largest:.3g}: any model would "
                "keep it, so it proves nothing; the bundle was not written by edgekd"
            )
    return inputs, outputs


def stored_inputs(arrays: Mapping[str, Array], tables: Sequence[Table]) -> dict[str, Array]:
    """Input -> array. The file holds the first input as `inputs`, each further one as `inputs.NAME`. Raise Failure."""
    keys = {table["name"]: f"inputs.{table['name']}" if number else "inputs" for number, table in enumerate(tables)}
    extra = sorted({key for key in arrays if key == "inputs" or key[:7] == "inputs."} - set(keys.values()))
    if extra:
        raise Failure(f"golden.npz holds {listed(extra)}; {takes(tables)}")
    inputs = {name: arrays.get(key, np.empty(0)) for name, key in keys.items()}
    for table in tables:
        array = inputs[table["name"]]
        if (
            str(array.dtype) != table["dtype"]
            or not fits(array.shape[1:], table["shape"][1:])
            or array.ndim == 0
            or not 0 < len(array) <= 4096
        ):
            raise Failure(
                "golden.npz holds {} {} for input {!r:.80}; the graph takes {} {}".format(
                    array.dtype, list(array.shape), table["name"], table["dtype"], table["shape"]
                )
            )
    free = [{**table, "shape": [None, *table["shape"][1:]]} for table in tables]  # a graph may be fixed to batch 1
    problem = sizes_problem(inputs, free)
    if problem:
        raise Failure(f"golden.npz: {problem}")
    return inputs


def read_arrays(path: str) -> dict[str, Array]:
    """The arrays of a .npz by name. Raise Failure.

    A stated shape is compared with the file's size before memory is used for it.
    """
    arrays = {}
    name, most = os.path.basename(path), LARGEST_TEXT
    try:
        state = os.lstat(path)
        if not stat.S_ISREG(state.st_mode) or state.st_size > most:
            raise ValueError(f"no plain file of at most {most >> 20} MB")
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > state.st_size:
                    raise ValueError("it is packed")
                arrays[member.filename[: -len(".npy")]] = read_array(archive.read(member))
    except Exception as error:  # a damaged file makes zipfile and numpy raise errors of many kinds
        reason = (str(error).splitlines() or [""])[0][:200]
        raise Failure(f"{name} cannot be read: {type(error).__name__} {reason}") from None
    return arrays


def read_array(data: bytes) -> Array:
    """An array of numbers in numpy's own format. Raises ValueError for other content."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = header(file)
    if (
        dtype.kind not in "biuf"
        or min(shape, default=0) < 0
        or math.prod(shape) * dtype.itemsize != len(data) - file.tell()
    ):
        raise ValueError(f"it holds {dtype} {str(shape)[:60]}, which its size is not")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if by_column else "C")


def verify_outputs(model: Any, manifest: dict[str, Any]) -> tuple[bool, str]:
    """Whether the model gives the stored outputs, and the differences in words."""
    inputs, expected = golden(HERE, manifest)
    tolerances = {"": manifest["golden"]["tolerance"], **manifest["golden"].get("further", {})}
    names, count = ["", *model.outputs[1:]], len(next(iter(inputs.values())))
    # one at a time: a graph or an engine may be fixed to batch 1
    runs = [run_on(model, rows_of(inputs, slice(i, i + 1)), "the stored inputs") for i in range(count)]
    found = {name: np.concatenate([run[at] for run in runs]) for at, name in enumerate(names)}
    missing = sorted(set(expected) - set(found))
    if missing:
        return False, "the model has no output {}".format(", ".join(missing))
    rows = [compare_output(name, found[name], expected[name], float(tolerances[name])) for name in sorted(expected)]
    return all(ok for ok, _ in rows), "; ".join(detail for _, detail in rows)


def compare_output(name: str, computed: Array, expected: Array, tolerance: float) -> tuple[bool, str]:
    """Whether an output is within its tolerance of the stored output, and the figures in words."""
    title = f"{name}: " if name else ""
    if computed.shape != expected.shape:
        return False, f"{title}shape {computed.shape}, expected {expected.shape}"
    difference = float(np.max(np.abs(computed.astype(np.float64) - expected.astype(np.float64))))
    same = computed.argmax(1) == expected.argmax(1)  # of maps [n, classes, h, w] for each pixel
    figures = (
        f"max difference {difference:.3g} (tolerance {tolerance:.3g}), top-1 agrees on {int(same.sum())} of {same.size}"
    )
    return difference <= tolerance, title + figures


def file_problem(name: str, expected: str) -> str:
    """The fault of a file of the bundle. Empty without a fault."""
    if name != os.path.basename(name) or name in ("", ".", "..") or "\\" in name or "\0" in name:
        return "leaves the bundle"
    path = os.path.join(HERE, name)
    try:
        state = os.lstat(path)
    except (OSError, ValueError):
        return "missing"
    if stat.S_ISLNK(state.st_mode):
        return "is a link"
    if not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST:
        return "is no plain file of at most 4 GB"
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return "" if digest.hexdigest() == expected else "changed"


def bench(
    model: Callable[..., Any], name: str, arguments: argparse.Namespace, manifest: dict[str, Any]
) -> dict[str, Any]:
    """Times an inference of batch 1 on the first stored input, in milliseconds: warm-up, then blocks."""
    batch = rows_of(golden(HERE, manifest)[0], slice(1))
    time_calls(lambda: model(batch), arguments.warmup_s, 1)
    blocks = [time_calls(lambda: model(batch), arguments.block_s, arguments.min_n) for _ in range(arguments.blocks)]
    figures = summarize(blocks)
    result = {
        "runtime": name,
        "machine": f"{platform.machine()} {platform.platform()}",
        "batch_size": 1,
        "threads": arguments.threads,
    }
    result.update(figures)
    p99 = "not given below 1000 samples" if result["p99_ms"] is None else "{:.4g} ms".format(result["p99_ms"])
    print("{}, batch 1, {} thread(s), n {}".format(name, arguments.threads, result["n"]))
    print("p50 {:.4g} ms, p90 {:.4g} ms, p99 {}".format(result["p50_ms"], result["p90_ms"], p99))
    medians = ", ".join(f"{m:.4g}" for m in figures["block_medians_ms"])
    print("{}: block medians {} ms".format("stable" if figures["stable"] else "UNSTABLE", medians))
    if arguments.warmup_s < 1 or arguments.blocks < 3:
        print("short of the protocol: it asks for a warm-up of 1 s and 3 blocks")
    return result


def summarize(blocks: list[Array]) -> dict[str, Any]:
    """Percentiles of all samples in milliseconds, and whether the blocks' medians lie within 5 %."""
    samples = np.concatenate(blocks)
    medians = [float(np.median(block)) for block in blocks]
    return {
        "n": int(samples.size),
        "p50_ms": float(np.percentile(samples, 50)),
        "p90_ms": float(np.percentile(samples, 90)),
        "p99_ms": float(np.percentile(samples, 99)) if samples.size >= 1000 else None,
        "block_medians_ms": medians,
        "stable": len(blocks) >= 3 and max(medians) - min(medians) <= 0.05 * min(medians),
    }


def time_calls(call: Callable[[], object], seconds: float, n: int) -> Array:
    """The time of each call in milliseconds, until the time has passed and `n` calls were made.

    The garbage collector is off meanwhile: its pauses do not belong to the model.
    """
    gc.disable()
    try:
        samples: list[int] = []
        start = time.perf_counter_ns()
        while True:
            before = time.perf_counter_ns()
            call()
            after = time.perf_counter_ns()
            samples.append(after - before)
            if after - start >= seconds * 1e9 and len(samples) >= n:
                return np.asarray(samples, np.float64) / 1e6
    finally:
        gc.enable()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "input", nargs="?", help="an image, a sound, a .csv of rows, an .npy array, or an .npz by input name"
    )
    parser.add_argument("--mask", default="", help="the file for the mask of a picture; none: PICTURE.mask.png")
    parser.add_argument(
        "--stream", action="store_true", help="tell the phrases in 16-bit PCM or WAV from standard input"
    )
    parser.add_argument("--hop-ms", type=float, help="from window to window of a stream (a tenth of a window)")
    parser.add_argument("--smooth-ms", type=float, help="of a stream whose scores are averaged (half a window)")
    parser.add_argument("--threshold", type=float, default=0.7, help="least mean score of a phrase (0.7)")
    parser.add_argument("--suppress-ms", type=float, help="after a phrase, in which none is told (a window)")
    parser.add_argument(
        "--background",
        action="append",
        default=[],
        metavar="CLASS",
        help="that is not told; may be given several times",
    )
    parser.add_argument("--verify", action="store_true", help="check hashes and stored outputs")
    parser.add_argument("--bench", action="store_true", help="measure the latency")
    parser.add_argument("--model", default="model.onnx", help="another ONNX file of this bundle")
    parser.add_argument("--engine", help="a TensorRT engine to run instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup-s", type=float, default=1.0, help="seconds before the first block")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--block-s", type=float, default=1.0, help="least seconds of a block")
    parser.add_argument("--min-n", type=int, default=20, help="least samples of a block")
    parser.add_argument("--json", help="write the latency to this file as well")
    given = parser.parse_args(arguments)
    if not (given.input or given.stream or given.verify or given.bench):
        parser.error("give an image, a sound or a .csv, --stream, --verify or --bench")
    if given.stream and (given.input or given.bench):
        parser.error("--stream reads standard input alone: run.py --stream < words.wav")
    times = [value for value in (given.hop_ms, given.smooth_ms, given.suppress_ms) if value is not None]
    if not (0 < given.threshold <= 1 and all(0 <= value < 1e9 for value in times)):
        parser.error("--threshold lies above 0, at most at 1; --hop-ms, --smooth-ms and --suppress-ms start at 0")
    if given.mask and not given.mask.lower().endswith(".png"):
        parser.error(f"--mask {given.mask}: a mask is written as PNG; give a name that ends in .png")
    if given.mask and not os.path.isdir(os.path.dirname(given.mask) or "."):
        parser.error(f"--mask {given.mask}: there is no folder {os.path.dirname(given.mask)}; make it first")
    if given.blocks < 1 or given.threads < 1 or not math.isfinite(given.block_s):
        parser.error("--blocks and --threads start at 1")
    return given


def main() -> int:
    options = parse()

    def start() -> Any:
        if options.engine:
            return EngineModel(options.engine)
        stand_in = manifest.get("runtime") == "tensorrt" or manifest.get("precision") == "fp16"
        return OnnxModel(os.path.join(HERE, options.model), options.threads, stand_in)

    try:
        manifest = read_manifest()
        ok = verify(manifest, start) if options.verify else True
        if options.input and ok:
            predict(start(), options.input, manifest, options.mask)
        if options.stream and ok:
            if "sample_rate" not in manifest["input"] or manifest.get("further_inputs"):
                raise Failure("--stream is for models that take sounds; this one takes none")
            if sys.stdin is None or sys.stdin.isatty():
                raise Failure(
                    "--stream reads standard input: run.py --stream < words.wav, or arecord -t raw ... | run.py --stream"
                )
            listen(start(), manifest, options, sys.stdin.buffer)
        if options.bench and ok:
            model = start()
            result = bench(model, model.name, options, manifest)
            if options.json:
                with open(options.json, "w", encoding="utf-8") as file:
                    json.dump(result, file, indent=2, sort_keys=True)
    except KeyboardInterrupt:  # the usual end of a live stream
        return 130
    except BrokenPipeError:  # the reader of the lines has gone; what is still to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (Failure, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2
    return 0 if ok else 3


if __name__ == "__main__":
    sys.exit(main())
