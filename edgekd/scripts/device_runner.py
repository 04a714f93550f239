#!/usr/bin/env python3
"""Measures a bundle on the machine that it lies on, and says under which conditions; needs nothing of edgekd.

    python3 device_runner.py bundle/                        hashes, stored outputs, latency; writes figures.json
    python3 device_runner.py bundle/ --threads 1,4 --batch 1,8 --cpus 4-7
    python3 device_runner.py bundle/ --sustained-s 1800
    edgekd measure bundle/ --figures figures.json           on the host: into the bundle's report

Needs Python 3.8+, numpy and onnxruntime, or tensorrt and the CUDA runtime (through ctypes, as run.py does).
`edgekd measure`, `verify --device` and `ship` send this file through the connection and ask it with --request.
What runs the model is run.py, what builds an engine is build_engine.py: of the bundle here, of the host's edgekd there.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True  # this folder holds what was sent and nothing else
    if "__file__" in globals() and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]  # this folder: a json.py or a numpy beside this file is not what is imported

import argparse
import contextlib
import ctypes
import errno
import fcntl
import functools
import glob
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

FORMAT = 1
LARGEST = 1 << 32  # bytes of a file that is read
LARGEST_TEXT = 1 << 26  # of a manifest
MADE_HERE = ("model.plan", "timing.cache", "__pycache__", "figures.json")
MARK = "made-by-edgekd"  # a file in the store
PARTS = ("objects", "incoming", "timing", "work")
STALE_S = 24 * 3600  # an upload that nobody came back for


class Failure(Exception):
    """What went wrong and what to do; told to the host, or printed without a traceback."""


class Differs(Failure):
    """The bundle's files or what it computes are not what they should be."""


def progress(text: str) -> None:
    print("edgekd: " + text, file=sys.stderr, flush=True)


# ----------------------------------------------------------------------------------------------- what this machine is


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """What runs here, and which of the host's files are here already; touches nothing but the store's folder."""
    facts = find_facts(request.get("root", "/"))
    folder = request.get("folder")
    if folder:
        with lasting(folder):
            facts["missing"] = [key for key in request.get("objects", []) if not held(folder, key)]
        facts["free_mb"] = shutil.disk_usage(folder).free / 2**20
    if request.get("to"):
        facts["to"] = describe_place(request["to"])
    return facts


def find_facts(root: str) -> dict[str, Any]:
    """Board, processor, memory, system, JetPack, runtimes, power modes; what cannot be told is null."""
    return {
        "format": FORMAT,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "board": board(root),
        "cpu": processor(root),
        "cores": len(os.sched_getaffinity(0)),
        "ram_mb": meminfo_mb(root, "MemTotal"),
        "python": platform.python_version(),
        "l4t": l4t(root),
        "jetpack": package_version(root, "nvidia-jetpack"),
        "runtimes": {name: version_of(name) for name in ("numpy", "onnxruntime", "tensorrt")},
        "power_modes": power_modes(root),
        "state": state(root),
    }


def board(root: str) -> str | None:
    return read(root, "proc/device-tree/model").strip("\0\n ") or None


def processor(root: str) -> str | None:
    """The processor's name; arm64 Linux gives none, there the parts are listed: `4x 0xd0b`."""
    text = read(root, "proc/cpuinfo")
    names = re.findall(r"^(?:model name|Hardware)\s*:\s*(.+)$", text, re.M)
    if names:
        return str(names[0])
    parts = re.findall(r"^CPU part\s*:\s*(\S+)$", text, re.M)
    counted = sorted({part: parts.count(part) for part in parts}.items())
    return ", ".join(f"{n}x {ARM_PARTS.get(part, part)}" for part, n in counted) or None


ARM_PARTS = {
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE", "0xd44": "Cortex-X1", "0x004": "Carmel",
}  # fmt: skip  # Arm's and NVIDIA's part numbers, as in the kernel's cputype.h


def l4t(root: str) -> str | None:
    """`36.4.3` of `# R36 (release), REVISION: 4.3, ...`."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read(root, "etc/nv_tegra_release"))
    return "{}.{}".format(*found.groups()) if found else None


def package_version(root: str, name: str) -> str | None:
    """The version of a Debian package that is installed."""
    found = re.search(
        rf"^Package: {re.escape(name)}\nStatus: install ok installed\n(?:.+\n)*?Version: (\S+)$",
        read(root, "var/lib/dpkg/status"),
        re.M,
    )
    return found.group(1) if found else None


def version_of(name: str) -> str | None:
    """The version of a Python package, from its metadata or, where it has none, from the package itself."""
    from importlib import metadata

    for called in DISTRIBUTIONS.get(name, (name,)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(called)
    if importlib.util.find_spec(name) is None:
        return None
    with contextlib.suppress(Exception):  # a broken package counts as absent
        return str(importlib.import_module(name).__version__)
    return None


DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}


# ------------------------------------------------------------------------------------- the state that figures depend on


def read(root: str, path: str) -> str:
    """A small file's text; empty where it is absent or may not be read."""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def number(root: str, path: str) -> float | None:
    try:
        return float(read(root, path).strip())
    except ValueError:
        return None


def found(root: str, pattern: str) -> list[str]:
    """Paths below the root folder, relative to it."""
    return sorted(os.path.relpath(path, root) for path in glob.glob(os.path.join(root, pattern)))


def meminfo_mb(root: str, key: str) -> float | None:
    line = re.search(rf"^{key}:\s+(\d+) kB", read(root, "proc/meminfo"), re.M)
    return int(line.group(1)) / 1024 if line else None


def power_modes(root: str) -> dict[str, int]:
    """Name -> id, from this board's own table: ids differ between boards."""
    lines = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", read(root, "etc/nvpmodel.conf"))
    return {name: int(number) for number, name in lines}


def power_mode(root: str) -> str | None:
    """The name of the mode that is set."""
    modes = {number: name for name, number in power_modes(root).items()}
    status = re.search(r"pmode:(\d+)", read(root, "var/lib/nvpmodel/status"))
    if status:
        return modes.get(int(status.group(1)), f"id {int(status.group(1))}")
    if not modes or root != "/":
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        text = subprocess.run(["nvpmodel", "-q"], stdout=subprocess.PIPE, timeout=10).stdout.decode()
        told = re.search(r"NV Power Mode:\s*(\S+)", text)
        return told.group(1) if told else None
    return None


def clocks_mhz(root: str) -> dict[str, float]:
    """`cpu0` (a policy, by its first core) and `gpu`, as they run now."""
    clocks = {}
    for policy in found(root, "sys/devices/system/cpu/cpufreq/policy*"):
        khz = number(root, policy + "/scaling_cur_freq")
        if khz:
            clocks["cpu" + policy.rsplit("policy", 1)[1]] = khz / 1e3
    for device in gpus(root):
        hz = number(root, device + "/cur_freq")
        if hz:
            clocks["gpu"] = hz / 1e6
    return clocks


def gpus(root: str) -> list[str]:
    """devfreq's GPU: 17000000.gpu, .ga10b or .gv11b on a Jetson."""
    return [d for d in found(root, "sys/class/devfreq/*") if re.search(r"\.(gpu|ga10b|gv11b|gp10b)$", d)]


def policies_of(root: str, cpus: list[int]) -> list[str]:
    """The clocks that some cores run by, named as in clocks_mhz."""
    names = []
    for policy in found(root, "sys/devices/system/cpu/cpufreq/policy*"):
        related = {int(word) for word in read(root, policy + "/related_cpus").split() if word.isdigit()}
        if related & set(cpus):
            names.append("cpu" + policy.rsplit("policy", 1)[1])
    return names


def governors(root: str) -> dict[str, str]:
    named = {}
    for policy in found(root, "sys/devices/system/cpu/cpufreq/policy*"):
        named["cpu" + policy.rsplit("policy", 1)[1]] = read(root, policy + "/scaling_governor").strip()
    for device in gpus(root):
        named["gpu"] = read(root, device + "/governor").strip()
    return {name: governor for name, governor in named.items() if governor}


def temperatures_c(root: str) -> dict[str, float]:
    zones = {}
    for zone in found(root, "sys/class/thermal/thermal_zone*"):
        thousandths = number(root, zone + "/temp")
        # a zone that is switched off reads -256
        if thousandths is not None and thousandths > -100e3:
            zones[read(root, zone + "/type").strip() or os.path.basename(zone)] = thousandths / 1e3
    return zones


def throttle_counts(root: str) -> dict[str, int]:
    """Counters that only grow: over-current events (Jetson), thermal events (x86), sticky flags (Raspberry Pi)."""
    counts: dict[str, int] = {}
    for path in found(root, "sys/class/hwmon/*/oc*_event_cnt"):
        events = number(root, path)
        if events is not None:
            counts[os.path.basename(path)] = counts.get(os.path.basename(path), 0) + int(events)
    x86 = [number(root, p) for p in found(root, "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")]
    if x86:
        counts["core_throttle_count"] = int(sum(events or 0 for events in x86))
    for path in found(root, "sys/devices/platform/soc*/soc*firmware/get_throttled"):
        with contextlib.suppress(ValueError):
            # bits 0-3: now; 16-19: since the start (under-voltage, frequency capped, throttled, soft limit)
            counts["get_throttled"] = bin(int(read(root, path).strip() or "0", 16) & 0xF000F).count("1")
    return counts


def state(root: str) -> dict[str, Any]:
    """What a figure depends on and may change while it is taken."""
    load = read(root, "proc/loadavg").split()
    return {
        "power_mode": power_mode(root),
        "clocks_mhz": clocks_mhz(root),
        "governors": governors(root),
        "temperatures_c": temperatures_c(root),
        "throttle_counts": throttle_counts(root),
        "free_memory_mb": meminfo_mb(root, "MemAvailable"),
        "load_1m": float(load[0]) if load else None,
    }


def busy_s(root: str) -> float | None:
    """Seconds that all cores together were busy since the start of the system."""
    fields = read(root, "proc/stat").split("\n", 1)[0].split()[1:9]
    if len(fields) < 8:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# --------------------------------------------------------------------------------------------------------------- energy


def rails(root: str) -> dict[str, tuple[str, str]]:
    """Rail -> (millivolt file, milliampere file) of the INA sensors that may be read."""
    sensors = {}
    for chip in found(root, "sys/class/hwmon/hwmon*"):
        if not read(root, chip + "/name").startswith("ina"):
            continue
        for path in found(root, chip + "/in*_label"):
            channel = re.sub(r"\D", "", os.path.basename(path))
            volts, amperes = f"{chip}/in{channel}_input", f"{chip}/curr{channel}_input"
            if number(root, volts) is not None and number(root, amperes) is not None:
                sensors[read(root, path).strip()] = (volts, amperes)
    return sensors


def power_mw(root: str, sensors: dict[str, tuple[str, str]]) -> dict[str, float]:
    return {
        rail: (number(root, volts) or 0.0) * (number(root, amperes) or 0.0) / 1e3
        for rail, (volts, amperes) in sensors.items()
    }


def sample_power(root: str, during: Callable[[], object], every_s: float = 0.05) -> dict[str, float]:
    """Mean milliwatts of each rail while `during` runs."""
    sensors, samples, over = rails(root), [], threading.Event()

    def sample() -> None:
        while not over.wait(every_s):
            samples.append(power_mw(root, sensors))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        during()
    finally:
        over.set()
        thread.join()
    return {rail: sum(s[rail] for s in samples) / len(samples) for rail in sensors} if samples else {}


def measure_energy(root: str, call: Callable[[], object], seconds: float) -> dict[str, Any] | None:
    """Power at rest and while inferring, sampled apart from the latency so that sampling costs that nothing."""
    if not rails(root):
        return None
    idle = sample_power(root, lambda: time.sleep(min(seconds, 1.0)))
    done: list[None] = []

    def infer() -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            call()
            done.append(None)

    start = time.perf_counter()
    busy = sample_power(root, infer)
    taken = time.perf_counter() - start
    if not idle or not busy:
        return None
    return {
        "idle_mw": idle,
        "busy_mw": busy,
        "inferences": len(done),
        "mj_per_inference": {rail: power * taken / len(done) for rail, power in busy.items()},
    }


# ------------------------------------------------------------------------------------------------- files, by their hash


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def object_path(folder: str, key: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise Failure(f"{key!r} is no SHA-256")
    return os.path.join(folder, "objects", key)


def held(folder: str, key: str) -> bool:
    """Whether the store has these bytes; a damaged file is thrown away."""
    path = object_path(folder, key)
    if not os.path.isfile(path) or os.path.islink(path):
        return False
    if sha256(path) == key:
        return True
    os.remove(path)
    return False


def own(folder: str) -> None:
    """Make sure that the store is ours before anything is removed in it. Raise Failure for a folder of other files."""
    made = not os.path.isdir(folder)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    there = [name for name in os.listdir(folder) if not re.fullmatch(r"task-[0-9a-f]{16}", name)]  # one task's
    if os.stat(folder).st_uid != os.geteuid() or (there and MARK not in there):
        raise Failure(
            f"{folder} holds other files and was not made by edgekd, which removes what it no longer needs in its folder: "
            "choose another one (edgekd device add --folder)"
        )
    links = [name for name in (*PARTS, "lock", MARK) if os.path.islink(os.path.join(folder, name))]
    if links:
        raise Failure("{} has links: {}; edgekd made none, remove them".format(folder, ", ".join(links)))
    if MARK not in there:
        with open(os.path.join(folder, MARK), "w", encoding="utf-8") as file:
            file.write("made" if made else "given")


@contextlib.contextmanager
def lasting(folder: str) -> Iterator[None]:
    """The store's folders, made where they are absent; what interrupted uploads and tasks left a day ago is removed."""
    own(folder)
    for name in PARTS:
        os.makedirs(os.path.join(folder, name), mode=0o700, exist_ok=True)
    store = glob.escape(folder)
    for left in glob.glob(os.path.join(store, "incoming", "*")) + glob.glob(
        os.path.join(store, "task-" + 16 * "[0-9a-f]")
    ):
        with contextlib.suppress(OSError):
            if time.time() - os.stat(left).st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True)
    yield


def open_upload(request: dict[str, Any]) -> dict[str, Any]:
    """A folder for the files that are about to be sent."""
    os.makedirs(incoming(request), mode=0o700, exist_ok=True)
    return {}


def drop_upload(request: dict[str, Any]) -> dict[str, Any]:
    shutil.rmtree(incoming(request), ignore_errors=True)
    return {}


def incoming(request: dict[str, Any]) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,32}", request["id"]):
        raise Failure("{!r} is no upload".format(request["id"]))
    return os.path.join(request["folder"], "incoming", request["id"])


def admit(request: dict[str, Any]) -> None:
    """Take what was sent into the store, each file only if its bytes are those that were announced."""
    folder = incoming(request)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path, target = os.path.join(folder, name), object_path(request["folder"], name)
        if os.path.islink(path) or sha256(path) != name:
            raise Failure("a file arrived with other bytes than were sent; run the command again")
        os.replace(path, target)
    shutil.rmtree(folder, ignore_errors=True)


def check_name(name: str) -> str:
    """Files of a bundle lie side by side in it."""
    if name != os.path.basename(name) or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise Failure(f"{name!r} leaves the bundle; it was not written by edgekd")
    return name


def assemble(folder: str, objects: str, files: dict[str, str]) -> None:
    """The files of a bundle in `folder`, copied out of the store and checked there."""
    os.makedirs(folder, mode=0o755, exist_ok=True)
    for name, key in sorted(files.items()):
        path = os.path.join(folder, check_name(name))
        shutil.copyfile(object_path(objects, key), path)
        if sha256(path) != key:
            raise Failure(f"{name} has other bytes than were sent; run the command again")


@contextlib.contextmanager
def locked(path: str, doing: str) -> Iterator[None]:
    """One at a time: two measurements at once would disturb each other, two shipments overwrite."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise Failure(f"another edgekd is {doing} here; wait for it, or end it") from None
        yield


@contextlib.contextmanager
def work_folder(request: dict[str, Any]) -> Iterator[tuple[dict[str, str], str]]:
    """(label -> bundle, tools), assembled from the store; removed afterwards, with what a run that was cut off left."""
    store = request["folder"]
    with lasting(store), locked(os.path.join(store, "lock"), "measuring"):
        admit(request)
        for left in os.listdir(os.path.join(store, "work")):
            shutil.rmtree(os.path.join(store, "work", left), ignore_errors=True)
        work = tempfile.mkdtemp(dir=os.path.join(store, "work"))
        try:
            on_lost_connection(lambda: shutil.rmtree(work, ignore_errors=True))
            tools = os.path.join(work, "tools")
            assemble(tools, store, request["tools"])
            bundles = {label: os.path.join(work, "bundle-" + check_name(label)) for label in request["bundles"]}
            for label, bundle in bundles.items():
                assemble(bundle, store, request["bundles"][label])
            yield bundles, tools
        finally:
            shutil.rmtree(work, ignore_errors=True)


CHILDREN: list[subprocess.Popen[bytes]] = []  # they must not outlive us


def on_lost_connection(clean: Callable[[], None]) -> None:
    """The host holds our standard input open while it waits: at its end nobody wants the answer any more."""

    def end(*_: object) -> None:
        for process in CHILDREN:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        clean()
        os._exit(1)

    def wait() -> None:
        while os.read(0, 1):  # unbuffered: a buffer's lock, held by this thread, would be fatal at the end
            pass
        end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=wait, daemon=True).start()


# -------------------------------------------------------------------------------------------------- the model that runs


def plain(path: str, most: int = LARGEST) -> bool:
    """A file of its own, no link, device or pipe, and no larger than what can be meant."""
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
    """What of a manifest is of another kind than edgekd writes; empty where nothing is."""
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
    problem = inputs_problem(manifest)
    if problem:
        return problem
    texts = [manifest.get(key, "") for key in ("runtime", "precision", "output")]
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        return "`runtime`, `precision` or `output` is no text"
    return ""


def inputs_problem(manifest: dict[str, Any]) -> str:
    """What of the inputs' tables is of another kind than edgekd writes; empty where nothing is."""
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
    """What of an input's table is of another kind, behind the name of the table; empty where nothing is."""
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
    return ""


def check_files(bundle: str, manifest: dict[str, Any]) -> None:
    """Raise Failure for a file that is missing, changed, no plain file or not listed."""
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


def load_tools(bundle: str, tools: str) -> Any:
    """run.py as a module that speaks of this bundle; its file's hash has been checked. Bytecode beside it is not read."""
    path = os.path.join(tools, "run.py")
    run: Any = types.ModuleType("edgekd_run")
    run.__file__ = path
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec", dont_inherit=True), run.__dict__)
    except ImportError as error:
        raise Failure(f"{error}; run: python3 -m pip install numpy") from None
    run.HERE, run.Failure = bundle, Failure  # what fails there is told as what fails here
    return run


def build_engine(bundle: str, tools: str, timing: str, most: int, request: dict[str, Any]) -> dict[str, Any]:
    """model.plan, built here by build_engine.py; what it prints is kept, the timing cache too."""
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
    """What loading the model and its first runs cost, in a process that has loaded no other."""
    bundle, runtime = request["bundle"], request["runtime"]
    run = load_tools(bundle, request["tools"])
    with contextlib.suppress(
        ImportError
    ):  # so that the import counts in neither figure; a missing one is told by run.py
        importlib.import_module("tensorrt" if runtime == "tensorrt" else "onnxruntime")
    first, reset = run.rows_of(run.golden(bundle, read_manifest(bundle))[0], slice(1)), False
    with contextlib.suppress(OSError):  # without, the peak would be that of what came before
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
    """A verb's answer from a process of its own: this file once more, out of the tools."""
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
    """In a child before it starts: the kernel ends it where this process is killed without a chance to.

    Threads run here by then, so nothing that takes a lock is done.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def child(words: list[str]) -> tuple[int, str]:
    """(exit code, what it printed) of a process that ends where this one does."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, preexec_fn=functools.partial(end_with_parent, os.getpid()),
    )  # fmt: skip
    CHILDREN.append(process)
    text = process.communicate()[0].decode("utf-8", "replace")
    CHILDREN.remove(process)
    return process.returncode, text


# ---------------------------------------------------------------------------------------------------------- measurement


def measure(request: dict[str, Any]) -> dict[str, Any]:
    with work_folder(request) as (bundles, tools):
        return measure_bundles(bundles, tools, os.path.join(request["folder"], "timing"), request)


def measure_bundles(bundles: dict[str, str], tools: str, timing: str, options: dict[str, Any]) -> dict[str, Any]:
    """Label -> all that is found out about that bundle here, or `failure`; `options` as parse() fills them in.

    Several are timed in turns, block by block, so that what the machine does meanwhile hits all alike; one that fails
    stops no other.
    """
    start, root = time.perf_counter(), options["root"]
    facts = find_facts(root)
    if options["cpus"]:
        pin(options["cpus"])
    cores = len(os.sched_getaffinity(0))
    if max(options["threads"]) > cores:
        raise Failure(
            "{} threads on {} cores would wait for each other; give at most {}".format(
                max(options["threads"]), cores, cores
            )
        )
    before, busy_before = state(root), busy_s(root)
    candidates: dict[str, Candidate] = {}
    failed: dict[str, dict[str, Any]] = {}

    def each(step: Callable[..., None], *words: Any) -> None:
        for label, candidate in candidates.items():
            if label not in failed:
                with noted(failed, label):
                    step(candidate, *words)

    for label, bundle in bundles.items():
        with noted(failed, label):
            candidates[label] = Candidate(label if len(bundles) > 1 else "", bundle, tools, options)
    each(Candidate.build, timing)
    for threads in options["threads"]:
        each(Candidate.load, threads)
        for batch in options["batches"] if options["time"] else []:
            each(Candidate.take, batch)
            time_in_turns(candidates, failed, threads, batch, options)
        if threads == options["threads"][0]:  # of the first number of threads, as the cost of loading is
            each(Candidate.go_on)
    after, busy_after, taken = state(root), busy_s(root), time.perf_counter() - start
    others = None
    if busy_before is not None and busy_after is not None:
        others = max(0.0, busy_after - busy_before - (own_s() - options["own_s"])) / taken
    shared = {"facts": facts, "before": before, "after": after, "other_load_cores": others, "seconds": taken}
    return {label: failed.get(label) or {**shared, **candidates[label].found} for label in bundles}


@contextlib.contextmanager
def noted(failed: dict[str, dict[str, Any]], label: str) -> Iterator[None]:
    """What goes wrong is kept under the label."""
    try:
        yield
    except Exception as failure:  # a runtime's errors share no other base
        failed[label] = told(failure)


def told(failure: Exception) -> dict[str, Any]:
    """A failure as the host reads it."""
    if isinstance(failure, Failure):
        return {"failure": str(failure), "differs": isinstance(failure, Differs)}
    if not isinstance(failure, OSError):
        return {"failure": f"{type(failure).__name__}: {failure}", "differs": False}
    where = f"{failure.filename}: " if failure.filename else ""
    remedy = "; free some space there" if failure.errno == errno.ENOSPC else ""
    return {"failure": f"{where}{failure.strerror or failure}{remedy}", "differs": False}


class Candidate:
    """A bundle that is measured; `found` is what was found out about it."""

    def __init__(self, label: str, bundle: str, tools: str, options: dict[str, Any]) -> None:
        self.title = label and label + ": "
        self.bundle, self.tools, self.options = bundle, tools, options
        self.manifest = read_manifest(bundle)
        check_files(bundle, self.manifest)
        self.run = load_tools(bundle, tools)
        self.runtime = options["runtime"] or self.manifest["runtime"]
        clocks = policies_of(options["root"], options["cpus"] or sorted(os.sched_getaffinity(0)))
        self.found: dict[str, Any] = {
            "engine": None, "series": [], "cpus": options["cpus"],
            "clocks_used": ["gpu"] if self.runtime == "tensorrt" else clocks,
        }  # fmt: skip
        self.model: Any = None
        self.calls: dict[str, Callable[[], object]] = {}

    @property
    def right(self) -> bool:
        """It gives the stored outputs; else it is not measured."""
        return bool(self.found["golden"]["ok"])

    def build(self, timing: str) -> None:
        if self.runtime == "tensorrt":
            progress(self.title + "building the engine")
            self.found["engine"] = build_engine(
                self.bundle, self.tools, timing, max(self.options["batches"]), self.options
            )

    def load(self, threads: int) -> None:
        """The model for so many threads; the first time its cost, its stored outputs and the samples are looked at."""
        progress(f"{self.title}loading and checking the stored outputs, {threads} thread(s)")
        if self.options["time"] and "loading" not in self.found:
            asked = {"bundle": self.bundle, "runtime": self.runtime, "threads": threads}
            self.found["loading"] = apart(self.tools, self.options["python"], "loading", asked)
        self.model = load_model(self.run, self.bundle, self.runtime, threads)
        if "golden" in self.found:
            return
        ok, detail = self.run.verify_outputs(self.model, self.manifest)
        self.found.update(runtime=self.model.name, golden={"ok": ok, "detail": detail})
        if ok and "samples" in self.options:
            samples = os.path.join(self.tools, self.options["samples"])
            self.found["predictions"] = predict(self.run, self.model, samples)

    def take(self, batch: int) -> None:
        """What is timed of a batch, by its transfers: the runtime as it is called, on a GPU also without the copies."""
        import numpy as np

        if not self.right:
            return
        stored, model = self.run.golden(self.bundle, self.manifest)[0], self.model
        inputs = self.run.rows_of(stored, np.arange(batch) % len(next(iter(stored.values()))))
        try:
            model(inputs)
        except Exception as error:
            if isinstance(error, Failure) or batch > 1:  # a graph that is fixed to another batch size
                raise Failure("batch {} does not run: {}".format(batch, str(error).split("\n")[0])) from None
            raise
        self.calls = {"included" if hasattr(model, "compute") else "none": lambda: model(inputs)}
        if hasattr(model, "compute"):
            model.place(inputs)
            self.calls["excluded"] = model.compute

    def go_on(self) -> None:
        """Energy, and what is asked for beyond the blocks."""
        if not self.options["time"] or not self.right:
            return
        root, one = self.options["root"], self.run.rows_of(self.run.golden(self.bundle, self.manifest)[0], slice(1))
        self.found["energy"] = measure_energy(root, lambda: self.model(one), self.options["energy_s"])
        if self.calls:
            self.found["sustained"] = sustain(
                self.run, next(iter(self.calls.values())), self.options["sustained_s"], root
            )


def time_in_turns(
    candidates: dict[str, Candidate],
    failed: dict[str, dict[str, Any]],
    threads: int,
    batch: int,
    options: dict[str, Any],
) -> None:
    """A block of everything that is timed, in turns, into `found`; the order is reversed every second round.

    Each is warmed up first and, where another ran in between, a tenth as long before each block, unrecorded. One that fails
    is left out from there on.
    """
    timed = []
    for label, candidate in candidates.items():
        for transfers, call in candidate.calls.items() if label not in failed and candidate.right else []:
            series: dict[str, Any] = {
                "batch": batch, "threads": threads, "transfers": transfers, "blocks_ms": [], "states": []
            }  # fmt: skip
            candidate.found["series"].append(series)
            timed.append((label, candidate.run.time_calls, call, series))
    for label, time_calls, call, series in timed:
        if label not in failed:
            with noted(failed, label):
                progress(f"{candidates[label].title}timing batch {batch}, {threads} thread(s)")
                time_calls(call, options["warmup_s"], 1)
                series["states"].append(state(options["root"]))
    for turn in range(options["blocks"]):
        for label, time_calls, call, series in timed if turn % 2 == 0 else reversed(timed):
            if label in failed:
                continue
            with noted(failed, label):
                if len(timed) > 1:
                    time_calls(call, options["warmup_s"] / 10, 1)
                samples = time_calls(call, options["block_s"], -(-options["min_n"] // options["blocks"]))
                series["states"].append(state(options["root"]))  # at once: clocks fall as soon as nothing runs
                series["blocks_ms"].append([round(ms, 5) for ms in samples.tolist()])


def pin(cpus: list[int]) -> None:
    have = os.sched_getaffinity(0)
    if not set(cpus) <= have:  # the kernel would take those that are there without a word
        raise Failure(f"cores {cpus} cannot be used; have: {sorted(have)}")
    os.sched_setaffinity(0, cpus)


def predict(run: Any, model: Any, path: str) -> list[int]:
    """The likeliest class of every sample, one at a time; the file holds an array of samples by the name of each input."""
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        samples = {name: stored[name] for name in stored.files}
    count = len(next(iter(samples.values())))
    progress(f"running {count} samples")
    return [int(model(run.rows_of(samples, slice(i, i + 1)))[0][0].argmax()) for i in range(count)]


def sustain(run: Any, call: Callable[[], object], seconds: float, root: str) -> list[dict[str, Any]]:
    """Without a rest for so long: a window every ten seconds, or sixty of them."""
    windows = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        left = seconds - (time.perf_counter() - start)
        samples = run.time_calls(call, min(max(10.0, seconds / 60), left), 1)
        now = state(root)
        window = {"at_s": time.perf_counter() - start, "n": len(samples), "p50_ms": sorted(samples)[len(samples) // 2]}
        window.update({key: now[key] for key in ("clocks_mhz", "temperatures_c", "throttle_counts")})
        windows.append(window)
        progress("{:.0f} s: p50 {:.4g} ms".format(window["at_s"], window["p50_ms"]))
    return windows


# --------------------------------------------------------------------------------------------------------------- shipping


VERSION = re.compile(r"([0-9a-f]{16})(-[\w.]+)?")  # what the bundle is (identity), and the TensorRT of its engine


def describe_place(to: str) -> dict[str, Any]:
    """What stands where a bundle is to be shipped, and whether there is room and permission."""
    to = place_of(to)
    parent = os.path.dirname(to)
    while not os.path.isdir(parent) and parent != os.path.dirname(parent):
        parent = os.path.dirname(parent)
    return {
        "writable": os.access(parent, os.W_OK | os.X_OK),
        "free_mb": shutil.disk_usage(parent).free / 2**20,
        "foreign": os.path.lexists(to) and current_version(to) is None,
        "version": current_version(to),
    }


def place_of(to: str) -> str:
    to = os.path.expanduser(to)
    if to.startswith("~"):
        raise Failure(f"{to}: there is no such user here")
    to = os.path.abspath(to)
    if os.path.dirname(to) == to:
        raise Failure(f"{to} cannot be a bundle's place; give a folder in it")
    if re.search(r"/\.[^/]+\.edgekd(/|$)", os.path.realpath(os.path.dirname(to))):
        raise Failure(f"{to} lies inside of what edgekd shipped; give a place beside it")
    return to


def versions_of(to: str) -> str:
    """The hidden folder beside the place where its versions lie."""
    return os.path.join(os.path.dirname(to), "." + os.path.basename(to) + ".edgekd")


@contextlib.contextmanager
def shipping(to: str) -> Iterator[str]:
    """The folder of a place's versions, for one at a time; what an interrupted shipment left there is removed."""
    versions = versions_of(to)
    os.makedirs(versions, exist_ok=True)
    if os.path.islink(versions) or os.stat(versions).st_uid != os.geteuid():
        raise Failure(f"{versions} is a link or another user's; ship as that user, or to another place")
    with locked(os.path.join(versions, "lock"), "shipping"):
        for left in glob.glob(os.path.join(glob.escape(versions), "draft-*")):
            remove(left)
        yield versions


def remove(path: str) -> None:
    """A folder, a file or a link; what is gone already, is."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def current_version(to: str) -> str | None:
    """The version that stands at a place: what a link of ours names; None where there is none."""
    try:
        folder, version = os.path.split(os.readlink(to))
    except OSError:
        return None
    return version if folder == os.path.basename(versions_of(to)) and VERSION.fullmatch(version) else None


def version_before(versions: str, version: str) -> str | None:
    """The version that stood there before this one did; None where it is gone.

    It is written down beside each version before the place is turned to it, so one rename switches both.
    """
    name = read(versions, version + ".before").strip()
    return name if VERSION.fullmatch(name) and name != version and os.path.isdir(os.path.join(versions, name)) else None


def point(to: str, versions: str, version: str) -> None:
    """Turn a place to a version in one step, with the one that stands there now noted as the one before."""
    now = current_version(to)
    if now not in (None, version):
        note = os.path.join(versions, "draft-before")
        with open(note, "w", encoding="utf-8") as file:
            file.write(str(now))
            file.flush()
            os.fsync(file.fileno())
        os.replace(note, os.path.join(versions, version + ".before"))
    turn(to, versions, version)


def turn(to: str, versions: str, version: str) -> None:
    draft = os.path.join(versions, "draft-link")
    remove(draft)
    os.symlink(os.path.join(os.path.basename(versions), version), draft)
    sync_folder(versions)
    os.replace(draft, to)
    sync_folder(os.path.dirname(to))


def sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(folder: str) -> None:
    for name in os.listdir(folder):
        handle = os.open(os.path.join(folder, name), os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(folder)


def prove(folder: str, tools: str, runtime: str) -> dict[str, Any]:
    """The stored outputs of a bundle in the runtime that ships; raises Differs where they are others."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    run = load_tools(folder, tools)
    model = load_model(run, folder, runtime, 1)
    ok, detail = run.verify_outputs(model, manifest)
    if not ok:
        raise Differs(f"the stored outputs are not what this device computes: {detail}")
    return {"detail": detail, "runtime": model.name}


def verify(request: dict[str, Any]) -> dict[str, Any]:
    """Are these the files, and does this device compute the same?"""
    with work_folder(request) as (bundles, tools):
        (bundle,) = bundles.values()
        runtime = request["runtime"] or read_manifest(bundle)["runtime"]
        if runtime == "tensorrt":
            progress("building the engine")
            build_engine(bundle, tools, os.path.join(request["folder"], "timing"), 1, request)
        return prove(bundle, tools, runtime)


def ship(request: dict[str, Any]) -> dict[str, Any]:
    """Written beside, proved there, switched to by one rename, proved again; the version before is kept."""
    to = place_of(request["to"])
    if os.path.lexists(to) and current_version(to) is None:
        raise Failure(f"{to} exists and was not shipped by edgekd; give another place or remove it")
    with shipping(to) as versions, work_folder(request) as (bundles, tools):
        (bundle,) = bundles.values()
        runtime = request["runtime"] or read_manifest(bundle)["runtime"]
        version = identity(bundle)
        if runtime == "tensorrt":  # an engine is of one release: after an update the same bundle is another version
            version += "-{}".format(version_of("tensorrt"))
        now, final = current_version(to), os.path.join(versions, version)
        damaged = damage(final, version, tools, runtime) if os.path.lexists(final) else ""
        if damaged or not os.path.lexists(final):
            try:
                settle(bundle, tools, versions, version, runtime, request)
            except Failure as failure:
                stands = "" if now is None else f"\n{to}: version {now} stands there, as before"
                raise type(failure)(f"{failure}{stands}") from None
        point(to, versions, version)
        try:
            check_version(to, version)
            proof = prove(to, tools, runtime)
        except BaseException as failure:
            stands = undo(to, versions, now)
            kind = Differs if isinstance(failure, Differs) else Failure
            raise kind(f"{str(failure) or repr(failure)}\n{stands}") from None
        prune(versions, version)
        before = version_before(versions, version)
        lost = damaged_before(versions, before)
    same = now == version and not damaged
    return {
        "version": version,
        "before": before,
        "unchanged": same,
        "repaired": damaged,
        "lost": lost,
        "to": to,
        **proof,
    }


def damaged_before(versions: str, before: str | None) -> str:
    """Why there can be no rollback, though a version before is kept; empty where there can."""
    try:
        if before is not None:
            check_version(os.path.join(versions, before), before)
    except (Failure, OSError) as failure:
        return str(failure)
    return ""


def undo(to: str, versions: str, before: str | None) -> str:
    """Turn a place back to what stood there; says so."""
    if before is None:
        os.remove(to)
        return f"{to}: nothing stands there, as before"
    turn(to, versions, before)
    return f"{to}: version {before} stands again"


def damage(folder: str, version: str, tools: str, runtime: str) -> str:
    """What is wrong with a version that lies there; empty where it is as it was sent and computes what it should.

    Raise Failure where somebody else's files lie in it: writing it anew would cost them.
    """
    foreign = foreign_files(folder)
    if foreign:
        raise Failure(
            "{} holds files that edgekd did not put there: {}; move them away".format(folder, ", ".join(foreign))
        )
    try:
        check_version(folder, version)
        prove(folder, tools, runtime)
    except Exception as failure:  # a plan that is cut off ends in an error of the runtime's own
        return str(failure) or repr(failure)
    return ""


def foreign_files(folder: str) -> list[str]:
    """Those that a bundle's manifest does not list; none where it cannot be read."""
    try:
        listed = read_manifest(folder)["files"]
    except Failure:
        return []
    return sorted(set(os.listdir(folder)) - set(listed) - {"manifest.json", *MADE_HERE})


def check_version(folder: str, version: str) -> None:
    """Raise Differs for a folder that is another than the version's: what was changed together with its hash is seen, too."""
    manifest = read_manifest(folder)
    if version[:16] != identity(folder):
        raise Differs("the bundle is not as it was written: manifest.json was changed")
    check_files(folder, manifest)


def identity(bundle: str) -> str:
    """What a version is named by: all that its manifest says, but for the report, which grows with every measurement."""
    manifest = read_manifest(bundle)
    files = {name: key for name, key in manifest["files"].items() if not name.startswith("report.")}
    about = {key: value for key, value in manifest.items() if key != "figures"}
    return hashlib.sha256(json.dumps({**about, "files": files}, sort_keys=True).encode()).hexdigest()[:16]


def settle(bundle: str, tools: str, versions: str, version: str, runtime: str, request: dict[str, Any]) -> None:
    """The version's own folder, complete and proved, or absent; one that was damaged is swapped with it."""
    final = os.path.join(versions, version)
    draft = tempfile.mkdtemp(prefix="draft-", dir=versions)
    try:
        os.chmod(draft, 0o755)
        for name in os.listdir(bundle):
            shutil.copyfile(os.path.join(bundle, name), os.path.join(draft, name))
        if runtime == "tensorrt":
            progress("building the engine")
            build_engine(draft, tools, os.path.join(request["folder"], "timing"), 1, request)
        prove(draft, tools, runtime)
        sync_files(draft)
        if os.path.lexists(final):
            swap(draft, final)
        else:
            os.rename(draft, final)
        sync_folder(versions)
    finally:
        remove(draft)


def swap(draft: str, final: str) -> None:
    """Exchange two folders in one step (Linux, renameat2); where the system cannot, there is none for an instant."""
    at_cwd, rename_exchange = -100, 2
    renameat2 = getattr(LIBC, "renameat2", None)  # glibc 2.28
    if renameat2 and renameat2(at_cwd, os.fsencode(draft), at_cwd, os.fsencode(final), rename_exchange) == 0:
        return
    old = os.path.join(os.path.dirname(final), "draft-old")
    os.rename(final, old)
    os.rename(draft, final)
    remove(old)


def prune(versions: str, version: str) -> None:
    """Only the current version and the one before it stay."""
    keep = {version, version_before(versions, version)}
    for name in os.listdir(versions):
        if VERSION.fullmatch(name.replace(".before", "")) and name.replace(".before", "") not in keep:
            remove(os.path.join(versions, name))


def rollback(request: dict[str, Any]) -> dict[str, Any]:
    """Switch to the version before, after its stored outputs were proved. A second rollback returns to the newer version."""
    to = place_of(request["to"])
    if current_version(to) is None:
        raise Failure(f"nothing was shipped to {to}")
    with shipping(to) as versions, work_folder(request) as (_, tools):
        now = str(current_version(to))
        before = version_before(versions, now)
        if before is None:
            raise Failure(f"{to} has no version before {now}")
        folder = os.path.join(versions, before)
        lost = damaged_before(versions, before)
        if lost:
            raise Differs(f"{to}: version {before} in {folder} cannot be put back: {lost}; ship what shall stand there")
        # a version with an engine has its release in its name; one without was shipped for onnxruntime
        proof = prove(folder, tools, request["runtime"] or ("tensorrt" if "-" in before else "onnxruntime"))
        point(to, versions, before)
    return {"version": before, "before": now, "to": to, **proof}


def forget(request: dict[str, Any]) -> dict[str, Any]:
    """Remove what lies in the store, and its folder where it was made for it; what was shipped stays."""
    folder = os.path.realpath(request["folder"])
    if os.path.isdir(folder):
        own(folder)
        with locked(os.path.join(folder, "lock"), "measuring"):
            made = read(folder, MARK) == "made"
            for path in [
                *glob.glob(os.path.join(glob.escape(folder), "task-" + 16 * "[0-9a-f]")),
                *(os.path.join(folder, n) for n in PARTS),
            ]:
                remove(path)
            for name in ("lock", MARK):
                remove(os.path.join(folder, name))
        if made:
            with contextlib.suppress(OSError):  # something else lies in it
                os.rmdir(folder)
    return {}


# ---------------------------------------------------------------------------------------------------------- the command

VERBS = {
    "probe": probe, "open_upload": open_upload, "drop_upload": drop_upload, "measure": measure, "verify": verify,
    "ship": ship, "rollback": rollback, "forget": forget, "loading": loading,
}  # fmt: skip


def answer(request: dict[str, Any]) -> int:
    """One JSON after the mark that the host chose: what a login shell prints cannot be taken for it."""
    own = own_s()
    try:
        reply: dict[str, Any] = {
            "value": VERBS[request["verb"]](dict({"own_s": own, "root": "/", "python": sys.executable}, **request))
        }
    except (Failure, OSError) as failure:
        reply = told(failure)
    print("\n" + request["mark"] + json.dumps(reply), flush=True)
    return 0


def numbers(text: str) -> list[int]:
    """`0,4-7` -> [0, 4, 5, 6, 7]."""
    listed: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        numbered = range(int(low), int(high if dash else low) + 1)
        if not numbered:
            raise ValueError(part)  # told by argparse
        listed += numbered
    return listed


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", help="the bundle's folder [this file's own]")
    parser.add_argument("--output", default="figures.json", help="where the figures are written")
    parser.add_argument("--runtime", choices=("onnxruntime", "tensorrt"), help="default: as the manifest says")
    parser.add_argument("--threads", type=numbers, default=[1])
    parser.add_argument("--batch", dest="batches", type=numbers, default=[1])
    parser.add_argument("--cpus", type=numbers, default=[], help="run on these cores only: 4-7")
    parser.add_argument("--warmup-s", type=float, default=1.0)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--block-s", type=float, default=1.0, help="least seconds of a block")
    parser.add_argument("--min-n", type=int, default=60, help="least samples of a series")
    parser.add_argument("--energy-s", type=float, default=3.0, help="seconds of the energy's own run, where readable")
    parser.add_argument("--sustained-s", type=float, default=0.0, help="go on without a rest for so long")
    parser.add_argument("--engine-option", dest="engine_options", action="append", default=[], metavar="WORD")
    parser.set_defaults(time=True, root="/", own_s=own_s(), python=sys.executable)
    given = parser.parse_args(words)
    if given.blocks < 3 or min([*given.threads, *given.batches, 1]) < 1:
        parser.error("--blocks starts at 3, --threads and --batch at 1")
    if given.sustained_s and len(given.threads) * len(given.batches) > 1:
        parser.error("--sustained-s goes with one number of threads and one batch size")
    return given


def summary(result: dict[str, Any], run: Any) -> Iterator[str]:
    """What a person reads; the host judges whether a verdict can be built on it."""
    import numpy as np

    yield "{}: stored outputs {}".format(result["runtime"], result["golden"]["detail"])
    for series in result["series"]:
        figures = run.summarize([np.asarray(block) for block in series["blocks_ms"]])
        yield "batch {}, {} thread(s), transfers {}: p50 {:.4g} ms, p90 {:.4g} ms, n {}, {}".format(
            series["batch"], series["threads"], series["transfers"], figures["p50_ms"], figures["p90_ms"], figures["n"],
            "stable" if figures["stable"] else "UNSTABLE",
        )  # fmt: skip


def main(words: list[str]) -> int:
    if words[:1] == ["--request"]:
        return answer(json.loads(words[1]))
    given = parse(words)
    bundle = os.path.abspath(given.bundle or os.path.dirname(os.path.abspath(__file__)))
    try:
        check_files(bundle, read_manifest(bundle))
        (result,) = measure_bundles({"": bundle}, bundle, bundle, vars(given)).values()
        if "failure" in result:
            raise Failure(result["failure"])
        result["model_sha256"] = sha256(os.path.join(bundle, "model.onnx"))
        with open(given.output, "w", encoding="utf-8") as file:
            json.dump(result, file)
        for line in summary(result, load_tools(bundle, bundle)):
            print(line)
        print(f"wrote {given.output}")
    except (Failure, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2
    return 0 if result["golden"]["ok"] else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
