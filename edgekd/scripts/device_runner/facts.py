"""find_facts, state: the machine's facts, and the state that figures depend on. Unknown values are null."""

from __future__ import annotations

import contextlib
import glob
import importlib
import importlib.util
import os
import platform
import re
import subprocess

from edgekd.scripts.device_runner.start import FORMAT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# ------------------------------------------------------------------------------------------------ what this machine is


def find_facts(root: str) -> dict[str, Any]:
    """Board, processor, memory, system, JetPack, runtimes and power modes. Unknown values are null."""
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
    """The processor's name. On arm64 Linux, which gives no name, the parts are listed: `4x 0xd0b`."""
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
    """The release of L4T: `36.4.3` from `# R36 (release), REVISION: 4.3, ...`."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read(root, "etc/nv_tegra_release"))
    return "{}.{}".format(*found.groups()) if found else None


def package_version(root: str, name: str) -> str | None:
    """The version of an installed Debian package."""
    found = re.search(
        rf"^Package: {re.escape(name)}\nStatus: install ok installed\n(?:.+\n)*?Version: (\S+)$",
        read(root, "var/lib/dpkg/status"),
        re.M,
    )
    return found.group(1) if found else None


def version_of(name: str) -> str | None:
    """The version of a Python package, from its metadata or, without metadata, from the package itself."""
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
    """A small file's text. Empty if the file is absent or may not be read."""
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
    """The paths that match a pattern below the root folder, relative to it."""
    return sorted(os.path.relpath(path, root) for path in glob.glob(os.path.join(root, pattern)))


def meminfo_mb(root: str, key: str) -> float | None:
    line = re.search(rf"^{key}:\s+(\d+) kB", read(root, "proc/meminfo"), re.M)
    return int(line.group(1)) / 1024 if line else None


def power_modes(root: str) -> dict[str, int]:
    """Name -> id of the power modes, from this board's own table. Ids differ between boards."""
    lines = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", read(root, "etc/nvpmodel.conf"))
    return {name: int(number) for number, name in lines}


def power_mode(root: str) -> str | None:
    """The name of the current power mode."""
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
    """The present clocks: `cpu0` (a policy, named by its first core) and `gpu`."""
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
    """The names of the clocks that drive these cores, as in clocks_mhz."""
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
    """The conditions that a figure depends on and that may change during the measurement."""
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
    """Seconds that all cores together were busy since the system started."""
    fields = read(root, "proc/stat").split("\n", 1)[0].split()[1:9]
    if len(fields) < 8:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
