"""check_fit: reports everything that a device lacks for a bundle, with remedies, before files are copied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgekd.errors import DeviceError
from edgekd.measure.answer import Facts
from edgekd.target import Target

INSTALL = {
    "numpy": "python3 -m pip install numpy",
    "onnxruntime": "python3 -m pip install onnxruntime",
    "tensorrt": "sudo apt install python3-libnvinfer (it is part of JetPack)",
}
ROOM_MB = 32  # room for other files: an engine's draft, the timing cache, logs
MACHINES = {"arm64": ("aarch64", "arm64"), "x86-64": ("x86_64", "amd64")}  # as `uname -m` and Python name them


def check_fit(
    device: str,
    facts: Facts,
    target: Target,
    runtime: str,
    *,
    missing_mb: float = 0.0,
    whole_mb: float = 0.0,
    power_mode: str | None = None,
    to: str | None = None,
    threads: int = 1,
) -> None:
    """Raises DeviceError with all obstacles on the device.

    missing_mb: size of the files to copy; whole_mb: size of all files, which the work folder (or the shipped version) needs
    besides.
    """
    lacks = [
        *_software(facts, target, runtime),
        *_mode(facts, power_mode),
        *_cores(facts, threads),
        *_room(facts, missing_mb + whole_mb),
        *(_place(facts, to, whole_mb) if to else ()),
    ]
    if lacks:
        lines = "\n".join(f"  {line}" for line in lacks)
        raise DeviceError(f"{device} ({facts.title}) is not ready for this bundle; nothing was copied:\n{lines}")


def _software(facts: Facts, target: Target, runtime: str) -> Iterator[str]:
    if runtime not in ("onnxruntime", "tensorrt"):
        yield f"the bundle is for {runtime}, which does not run from Python there; --runtime onnxruntime measures with that"
        return
    for name in ("numpy", runtime):
        if not facts.runtimes.get(name):
            other = (
                "; or measure with --runtime onnxruntime, which says little about TensorRT"
                if name == "tensorrt" and facts.runtimes.get("onnxruntime")
                else ""
            )
            yield f"it has no {name} for its Python {facts.python}: {INSTALL[name]}{other}"
    has, wants = facts.runtimes.get("tensorrt"), target.runtime.version
    if runtime == target.runtime.name == "tensorrt" and has and wants and _major(has) < _major(wants):
        known = next((f" (JetPack {j.version})" for j in target.jetpack if _release(j.tensorrt) == _release(has)), "")
        yield (
            f"it has TensorRT {has}{known}, and the bundle is for {wants} with opset up to {target.runtime.max_opset}: build "
            "for that release (a target file of your own with its version and max_opset), or update JetPack"
        )


def _mode(facts: Facts, wanted: str | None) -> Iterator[str]:
    if wanted is None or wanted == facts.state.power_mode:
        return
    if wanted in facts.power_modes:
        yield f"its power mode is {facts.state.power_mode}: sudo nvpmodel -m {facts.power_modes[wanted]} sets {wanted}"
    else:
        have = ", ".join(facts.power_modes) or "none that can be read"
        yield f"it has no power mode {wanted}; have: {have} (Super modes exist only where they were flashed)"


def _cores(facts: Facts, threads: int) -> Iterator[str]:
    if threads > facts.cores:
        yield f"{threads} threads on its {facts.cores} cores would wait for each other: give at most --threads {facts.cores}"


def _room(facts: Facts, needed_mb: float) -> Iterator[str]:
    if facts.free_mb is not None and facts.free_mb < needed_mb + ROOM_MB:
        yield (
            f"{facts.free_mb:.0f} MB are free where edgekd's folder lies, {needed_mb + ROOM_MB:.0f} MB are needed: free some, "
            "or choose another folder (edgekd device add --folder)"
        )


def _place(facts: Facts, to: str, whole_mb: float) -> Iterator[str]:
    if facts.to is None:
        return
    if facts.to.foreign:
        yield f"{to} exists there and was not shipped by edgekd: give another place, or move it away"
    if not facts.to.writable:
        yield f"{to} cannot be written by this user: make its folder and give it to the user, or ship to another place"
    if facts.to.free_mb < whole_mb + ROOM_MB:
        yield f"{facts.to.free_mb:.0f} MB are free at {to}, {whole_mb + ROOM_MB:.0f} MB are needed: free some"


def _major(version: str) -> int:
    found = re.match(r"\d+", version)
    return int(found.group()) if found else 0


def _release(version: str) -> Sequence[str]:
    return version.split(".")[:2]


def is_target(facts: Facts, target: Target, runtime: str) -> bool:
    """Whether the device has the target's architecture and runtime, so that its figures can decide the budget."""
    return runtime == target.runtime.name and is_architecture(facts.machine, target)


def is_architecture(machine: str, target: Target) -> bool:
    """Whether a machine (as `uname -m` says) has the target's instruction set."""
    return machine.lower() in MACHINES[target.architecture]
