"""Checks a bundle (manifest, files) and loads its model: run.py, the engine, and processes that load alone."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import os
import re
import signal
import stat
import subprocess
import time
import types

from edgekd.scripts.device_runner.facts import read, version_of
from edgekd.scripts.device_runner.start import FORMAT, Differs, Failure
from edgekd.scripts.device_runner.store import CHILDREN, check_name, sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# ------------------------------------------------------------------------------------------------- the model that runs

LARGEST = 1 << 32  # bytes of a file that is read
LARGEST_TEXT = 1 << 26  # of a manifest
MADE_HERE = ("model.plan", "timing.cache", "__pycache__", "figures.json")


def plain(path: str, most: int = LARGEST) -> bool:
    """Whether a path is a plain file of at most `most` bytes, not a link, device or pipe."""
    try:
        state = os.lstat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(state.st_mode) and state.st_size <= most


def read_manifest(bundle: str) -> dict[str, Any]:
    path = os.path.join(bundle, "manifest.json")
    try:
        if not plain(path, LARGEST_TEXT):
            raise ValueError("manifest.json is no plain file of at most 64 MB")
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        if manifest_problem(manifest):
            raise ValueError(manifest_problem(manifest))
    except (OSError, ValueError, RecursionError) as error:
        raise Failure(f"{bundle} is no bundle that this file reads: {str(error)[:300] or repr(error)}") from None
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


def check_files(bundle: str, manifest: dict[str, Any]) -> None:
    """Raise Differs for a file that is missing, changed, not a plain file or not listed."""
    problems = []
    for name, expected in sorted(manifest["files"].items()):
        path = os.path.join(bundle, check_name(name))
        if os.path.islink(path):
            problems.append((name, "is a link"))
        elif not os.path.exists(path):
            problems.append((name, "is missing"))
        elif not plain(path):
            problems.append((name, "is no plain file of at most 4 GB"))
        elif sha256(path) != expected:
            problems.append((name, "was changed"))
    problems += [(name, "is not listed in the manifest") for name in foreign_files(bundle)]
    told = [f"{name if name.isprintable() else repr(name)} {what}" for name, what in problems[:20]]
    if problems:
        raise Differs("the bundle is not as it was written: {}".format("; ".join(told)))


def foreign_files(folder: str) -> list[str]:
    """Files that a bundle's manifest does not list. Empty if the manifest cannot be read."""
    try:
        listed = read_manifest(folder)["files"]
    except Failure:
        return []
    return sorted(set(os.listdir(folder)) - set(listed) - {"manifest.json", *MADE_HERE})


def load_tools(bundle: str, tools: str) -> Any:
    """run.py as a module for this bundle. The hash of its file has been checked, and bytecode beside it is not read."""
    path = os.path.join(tools, "run.py")
    run: Any = types.ModuleType("edgekd_run")
    run.__file__ = path
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec", dont_inherit=True), run.__dict__)
    except ImportError as error:
        raise Failure(f"{error}; run: python3 -m pip install numpy") from None
    run.HERE, run.Failure = bundle, Failure  # run.py's failures are reported like failures of this file
    return run


def build_engine(bundle: str, tools: str, timing: str, most: int, request: dict[str, Any]) -> dict[str, Any]:
    """Builds model.plan with build_engine.py. The latter's output and timing cache are kept."""
    start = time.perf_counter()
    model, plan, trt = os.path.join(bundle, "model.onnx"), os.path.join(bundle, "model.plan"), version_of("tensorrt")
    words = [request["python"], os.path.join(tools, "build_engine.py"), "--model", model, "--output", plan]
    words += ["--timing-cache", os.path.join(timing, f"{trt}.cache"), "--max-batch", str(most)]
    words += ["--precision", read_manifest(bundle)["precision"], *request["engine_options"]]
    code, text = child(words)
    if code != 0:
        raise Failure("the engine was not built:\n" + text[-3000:])
    return {"seconds": time.perf_counter() - start, "log": text[-3000:], "tensorrt": trt}


def status_kb(key: str) -> int | None:
    line = re.search(rf"^{key}:\s+(\d+) kB", read("/", "proc/self/status"), re.M)
    return int(line.group(1)) if line else None


def load_model(run: Any, bundle: str, runtime: str, threads: int) -> Any:
    if runtime == "tensorrt":
        return run.EngineModel(os.path.join(bundle, "model.plan"))
    return run.OnnxModel(os.path.join(bundle, "model.onnx"), threads)


def loading(request: dict[str, Any]) -> dict[str, Any]:
    """The cost of loading the model and of its first runs, in a process that has loaded no other model."""
    bundle, runtime = request["bundle"], request["runtime"]
    run = load_tools(bundle, request["tools"])
    with contextlib.suppress(ImportError):  # the import must count in neither figure; run.py reports a missing package
        importlib.import_module("tensorrt" if runtime == "tensorrt" else "onnxruntime")
    first, reset = run.rows_of(run.golden(bundle, read_manifest(bundle))[0], slice(1)), False
    with contextlib.suppress(OSError):  # without this reset, the peak would include earlier memory
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        reset = True
    resident, start = status_kb("VmRSS"), time.perf_counter()
    model = load_model(run, bundle, runtime, request["threads"])
    loaded = time.perf_counter()
    model(first)
    ran = time.perf_counter()
    for _ in range(2):
        model(first)
    highest = status_kb("VmHWM")
    return {
        "load_ms": 1e3 * (loaded - start),
        "first_ms": 1e3 * (ran - loaded),
        "peak_memory_mb": (highest - resident) / 1024 if reset and highest and resident else None,
    }


def apart(tools: str, python: str, verb: str, request: dict[str, Any]) -> dict[str, Any]:
    """A verb's answer from a separate process, which runs this file again, from the tools."""
    asked = json.dumps({**request, "verb": verb, "tools": tools, "mark": "answer:"})
    code, text = child([python, os.path.join(tools, "device_runner.py"), "--request", asked])
    try:
        answered = json.loads(text.rpartition("answer:")[2].splitlines()[0])
    except (ValueError, IndexError):
        why = "it was killed; is there enough memory?" if code < 0 else text[-500:].strip() or "it said nothing"
        raise Failure(f"{verb} ended with exit code {code}: {why}") from None
    if "value" not in answered:
        raise Failure(answered["failure"])
    return dict(answered["value"])


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Makes the kernel end a child when this process is killed. Runs in the child before its program starts.

    Threads may run here by then, so the function must not take a lock.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def child(words: list[str]) -> tuple[int, str]:
    """(exit code, printed text) of a process that ends together with this one."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, preexec_fn=functools.partial(end_with_parent, os.getpid()),
    )  # fmt: skip
    CHILDREN.append(process)
    text = process.communicate()[0].decode("utf-8", "replace")
    CHILDREN.remove(process)
    return process.returncode, text
