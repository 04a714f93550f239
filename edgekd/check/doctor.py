"""diagnose: what this machine has for edgekd, what it lacks, and the remedy for each lack."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import onnxruntime as ort
import torch

from edgekd.base.version import VERSION
from edgekd.cache.listing import stored
from edgekd.errors import DeviceError
from edgekd.export.finding import runtime_title
from edgekd.figures.outputs import DoctorRow
from edgekd.measure.devices import named
from edgekd.measure.fitness import is_architecture
from edgekd.runtime.runners import cpu_features, machine
from edgekd.target import Target

EXTRAS = {
    "soundfile": ("audio", "sounds are read"),
    "soxr": ("audio", "sounds are resampled"),
    "timm": ("timm", "timm: models are loaded"),
    "tensorboard": ("tensorboard", "distill.tensorboard writes its curves"),
}
"""Package -> the extra that installs it, and what it is for."""
PROGRAMS = {
    "ssh": "devices are reached by ssh:; install the OpenSSH client",
    "adb": "Android devices are reached; install Android's platform-tools",
    "qemu-aarch64": "arm64 processors are emulated; install qemu-user",
}
INT8_FEATURES = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


def diagnose(cache: Path, target: Target | None = None) -> tuple[DoctorRow, ...]:
    """The parts of this machine in the order of a build. With a target also what a build for it cannot decide here."""
    return (
        DoctorRow(part="edgekd", found=f"{VERSION}, Python {platform.python_version()}"),
        DoctorRow(part="machine", found=_machine()),
        _int8(),
        DoctorRow(part="torch", found=f"{torch.__version__}, {torch.get_num_threads()} threads, {_accelerators()}"),
        DoctorRow(part="onnxruntime", found=f"{ort.__version__}: {', '.join(ort.get_available_providers())}"),
        _package("tensorrt", "tensorrt", "engines are built on the device all the same, and here with it"),
        *(_package(name, extra, f"with it {use}") for name, (extra, use) in EXTRAS.items()),
        *(_program(name, use) for name, use in PROGRAMS.items()),
        _cache(cache),
        _devices(),
        *(_of_target(target) if target is not None else ()),
    )


def _machine() -> str:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return f"{machine()}, {int(lines['MemTotal'].split()[0]) / 2**20:.0f} GiB of memory"
    except (OSError, KeyError, ValueError):  # not Linux
        return machine()


def _int8() -> DoctorRow:
    """Whether the processor has instructions for sums of int8 products, without which int8 gains little."""
    features = cpu_features()
    if not features:
        return DoctorRow(part="int8", found="not known: this system does not tell the processor's instructions")
    if found := sorted(INT8_FEATURES & features):
        return DoctorRow(part="int8", found=f"fast here: {', '.join(found)}")
    remedy = "measure on the device before you judge int8 by this machine's milliseconds"
    return DoctorRow(part="int8", found="no instructions for it here, so int8 may be slower than fp32", remedy=remedy)


def _accelerators() -> str:
    if not torch.cuda.is_available():
        return "no GPU"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _package(name: str, extra: str, use: str) -> DoctorRow:
    try:
        return DoctorRow(part=name, found=metadata.version(name))
    except metadata.PackageNotFoundError:
        return DoctorRow(part=name, found="not installed", remedy=f"{use}: pip install 'edgekd[{extra}]'")


def _program(name: str, use: str) -> DoctorRow:
    # Debian's package of static binaries gives the name another ending.
    found = shutil.which(name) or shutil.which(f"{name}-static")
    return DoctorRow(part=name, found=found or "not found", remedy="" if found else f"with it {use}")


def _cache(folder: Path) -> DoctorRow:
    stages = stored(folder)
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    size, free = sum(stage.size_mb for stage in stages), shutil.disk_usage(place).free / 1e6
    remedy = (
        f"edgekd cache --cache {folder} --prune --days 30 frees what was not used" if free < max(size, 2000) else ""
    )
    found = f"{folder}: {len(stages)} stages, {size:.0f} MB; {free:.0f} MB are free"
    return DoctorRow(part="cache", found=found, remedy=remedy)


def _devices() -> DoctorRow:
    try:
        names = sorted(named.list_devices())
    except DeviceError as error:
        return DoctorRow(part="devices", found="not readable", remedy=str(error))
    remedy = "" if names else "edgekd device add NAME --ssh user@host names one"
    return DoctorRow(part="devices", found=", ".join(names) or "none has a name", remedy=remedy)


def _of_target(target: Target) -> Iterator[DoctorRow]:
    """Which of the target's figures this machine cannot give."""
    runtime, here = runtime_title(target), platform.machine()
    on_device = "edgekd build --device NAME and edgekd measure BUNDLE --device NAME measure there"
    if target.runtime.name != "onnxruntime":
        found = f"{runtime} does not run here; scores are computed by onnxruntime, latency is not measured"
        yield DoctorRow(part=target.name, found=found, remedy=on_device)
    elif not is_architecture(here, target):
        found = f"{runtime} runs here on {here}, another architecture: its milliseconds are none of the device"
        yield DoctorRow(part=target.name, found=found, remedy=on_device)
    else:
        found = f"{runtime} is asked for, {ort.__version__} runs here on the same architecture"
        yield DoctorRow(
            part=target.name, found=found, remedy=f"a device's budget of latency needs the device: {on_device}"
        )
