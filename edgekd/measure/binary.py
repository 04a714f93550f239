"""measure_with: measures on a device without Python, with the user's benchmark program; above all on phones, by adb.

The program is called with the model's path as its last word. Its last printed line is JSON: `{"runtime": "name version",
"blocks_ms": [[...], [...], [...]]}`. The blocks hold milliseconds of single inferences after the program's own warm-up.
`threads` and `batch` are given if they are not 1. The stored outputs are not computed there, and the report says so.
"""

from __future__ import annotations

import secrets
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgekd.base.contents import hash_file
from edgekd.base.json_text import parse_json
from edgekd.bundle.read import SHIPPED
from edgekd.errors import DeviceError
from edgekd.figures.figures import OnDevice, Said
from edgekd.measure.answer import Block, Data, Facts, understand
from edgekd.measure.devices import Device
from edgekd.measure.devices.process import clean
from edgekd.measure.on_device import Trial
from edgekd.measure.protocol import Series
from edgekd.measure.verdict import refusals

LONGEST_S = 3600
# Prints the facts that a shell can read, a line for each: a word, a name, a value.
LOOK = r"""
echo "machine $(uname -m)"; echo "system $(uname -s) $(uname -r)"
command -v getprop >/dev/null && echo "board $(getprop ro.product.manufacturer) $(getprop ro.product.model)"
echo "cores $(grep -c ^processor /proc/cpuinfo)"
while read key kb _; do case $key in MemTotal:|MemAvailable:) echo "$key $kb";; esac; done < /proc/meminfo
for p in /sys/devices/system/cpu/cpufreq/policy*; do
  test -r $p/scaling_cur_freq && echo "clock cpu${p##*policy} $(cat $p/scaling_cur_freq)"; done
for z in /sys/class/thermal/thermal_zone*; do
  test -r $z/temp && echo "temperature $(cat $z/type) $(cat $z/temp)"; done
true
"""


class Printed(Data):
    """The figures that the program printed."""

    runtime: Said
    blocks_ms: Annotated[tuple[Block, ...], Field(min_length=1)]
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)


def measure_with(program: str, device: Device, trial: Trial) -> OnDevice:
    """The figures of a benchmark program on a device.

    program: a command there, or a file here (its first word), which is copied. Raises DeviceError if the program fails.
    """
    words = shlex.split(program)
    if not words:
        raise DeviceError("--runner is empty; name a program")
    folder = f"{device.folder}/task-{secrets.token_hex(8)}"
    _shell(device, 'mkdir -p "$1"', folder)
    try:
        files = {f"{folder}/{SHIPPED}": trial.model}
        if Path(words[0]).is_file():
            files[f"{folder}/runner"] = Path(words[0])
            words[0] = f"{folder}/runner"
        device.put(files)
        if words[0] == f"{folder}/runner":
            _shell(device, 'chmod 755 "$1"', words[0])
        before = look(device)
        result = device.run([*words, f"{folder}/{SHIPPED}"], timeout_s=LONGEST_S)
        after = look(device)
    finally:
        _shell(device, 'rm -rf "$1"', folder)
    if result.code != 0:
        raise DeviceError(f"{device.name}: {words[0]} ended with exit code {result.code}: {clean(result.err)[-500:]}")
    return _figures(understand(Printed, _last_json(device, result.out), device.name), device, trial, before, after)


def look(device: Device) -> Facts:
    """The facts that the device's shell can read."""
    facts: dict[str, object] = {"python": "none", "runtimes": {}, "cores": 1}
    clocks: dict[str, float] = {}
    heat: dict[str, float] = {}
    for line in _shell(device, LOOK).splitlines():
        kind, _, rest = line.partition(" ")
        name, _, value = rest.rpartition(" ")
        if kind == "clock" and _is_number(value):
            clocks[name] = float(value) / 1e3
        elif kind == "temperature" and _is_number(value):
            heat[name] = float(value) / 1e3
        elif kind == "MemTotal:" and _is_number(rest):
            facts["ram_mb"] = float(rest) / 1024
        elif kind in ("machine", "system", "board"):
            facts[kind] = rest
        elif kind == "cores" and rest.isdigit():
            facts[kind] = int(rest)
    facts["state"] = {"clocks_mhz": clocks, "temperatures_c": heat}
    return understand(Facts, facts, device.name)


def _shell(device: Device, script: str, *words: str) -> str:
    result = device.run(["sh", "-c", script, "sh", *words])
    if result.code != 0:
        raise DeviceError(f"{device.name}: {clean(result.err).strip() or script.strip()} (exit code {result.code})")
    return result.out.decode(errors="replace")


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdigit()


def _last_json(device: Device, out: bytes) -> object:
    lines = [line for line in out.decode(errors="replace").splitlines() if line.strip()]
    try:
        return parse_json(lines[-1])
    except (IndexError, ValueError):
        shown = clean("\n".join(lines[-5:])) or "nothing"
        raise DeviceError(
            f"{device.name}: the program's last line is no JSON, so no figure was taken (docs/devices.md says what it is to "
            f"print). It printed:\n{shown}"
        ) from None


def _figures(printed: Printed, device: Device, trial: Trial, before: Facts, after: Facts) -> OnDevice:
    series = Series.of(*printed.blocks_ms)
    latency = series.latency(
        threads=printed.threads,
        machine=before.title,
        runtime=printed.runtime,
        batch_size=printed.batch,
        origin=device.origin,
    )
    return OnDevice(
        device=device.name,
        origin=device.origin,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=before.title,
        architecture=before.machine,
        system="no Python",
        runtime=printed.runtime,
        model_sha256=hash_file(trial.model),
        is_target=False,  # only the program's own words name the runtime
        golden_ok=None,
        golden="not computed: the program only times",
        latencies=(latency,),
        # Clocks were read while nothing ran, so they are not compared.
        unstable=refusals([(f"batch {printed.batch}", series)], [before.state, after.state], (), {}),
        before=before.state,
        after=after.state,
    )
