"""ask: sends a question to device_runner.py on a device. Parcel: the files for a device, by their hash."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgekd.base.contents import hash_file
from edgekd.base.json_text import parse_json
from edgekd.bundle.read import BYTECODE, MANIFEST, check_file, read_manifest, refuse_links, unlisted
from edgekd.errors import BundleError, DeviceError, DiffersError
from edgekd.measure.answer import Facts, understand
from edgekd.measure.devices import Device, OnLine
from edgekd.measure.devices.process import clean, last_line
from edgekd.scripts import SCRIPTS, device_runner

ALONE = "bundle"  # the label of a bundle that is sent alone
TOO_OLD = 86
NOT_FOUND = 127
# The runner comes through standard input, so nothing is copied before the device was probed. The folder that it starts in
# is removed from the path, because a numpy.py there is not numpy.
BOOT = (
    "import sys; sys.version_info < (3, 8) and (sys.stderr.write('%d.%d' % sys.version_info[:2]), sys.exit({old})); "
    "sys.path[:] = [p for p in sys.path if p]; exec(compile(sys.stdin.buffer.read({size}), 'device_runner.py', 'exec'))"
)


@dataclass(frozen=True)
class Parcel:
    """The files for a device: name there -> SHA-256, for `tools` and for each bundle by its label.

    `paths` is SHA-256 -> file here, `texts` SHA-256 -> content that is no file here.
    """

    bundles: dict[str, dict[str, str]] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)

    def add(self, label: str, name: str, path: Path) -> None:
        """Adds a file of a bundle."""
        key = hash_file(path)
        self.bundles.setdefault(label, {})[name] = key
        self.paths[key] = path

    def add_tool(self, name: str, path: Path) -> None:
        """Adds a file that lies beside the bundle there and is not part of it."""
        self.tools[name] = hash_file(path)
        self.paths[self.tools[name]] = path

    def add_text(self, name: str, content: bytes) -> None:
        """Adds content that is no file here, as a tool."""
        self.tools[name] = hashlib.sha256(content).hexdigest()
        self.texts[self.tools[name]] = content

    @property
    def keys(self) -> list[str]:
        """The hashes of all files offered to a device."""
        return sorted({*self.paths, *self.texts})

    @property
    def size_mb(self) -> float:
        return self.megabytes(self.keys)

    def megabytes(self, keys: Iterable[str]) -> float:
        known = set(keys) & set(self.keys)
        return sum(len(self.texts[k]) if k in self.texts else self.paths[k].stat().st_size for k in known) / 2**20

    @contextmanager
    def files(self, keys: Iterable[str]) -> Iterator[dict[str, Path]]:
        """SHA-256 -> a file here, which exists while the block runs."""
        with TemporaryDirectory(prefix="edgekd-") as folder:
            written = {key: Path(folder) / key for key in keys if key in self.texts}
            for key, path in written.items():
                path.write_bytes(self.texts[key])
            yield {key: written.get(key) or self.paths[key] for key in keys}


def parcel_of(bundle: Path) -> Parcel:
    """The parcel of a bundle's files and edgekd's own scripts. Only these scripts run there, never those in a bundle.

    Raises BundleError if a file is missing or changed, is a link, or leaves the folder.
    """
    listed = read_manifest(bundle).files
    refuse_links(bundle)
    wrong = [
        f"{name} {detail}" for name, ok, detail in (check_file(bundle, *item) for item in listed.items()) if not ok
    ]
    wrong += [f"{name} is not listed in the manifest" for name in unlisted(bundle, listed) if name != BYTECODE]
    if wrong:
        raise BundleError(f"{bundle} is not as it was written: {'; '.join(wrong)}. Build it again")
    parcel = tools_alone()
    manifest = hash_file(bundle / MANIFEST)
    parcel.bundles[ALONE] = {**listed, MANIFEST: manifest}
    parcel.paths.update({key: bundle / name for name, key in listed.items()} | {manifest: bundle / MANIFEST})
    return parcel


def tools_alone() -> Parcel:
    parcel = Parcel()
    for path in (SCRIPTS / "run.py", SCRIPTS / "build_engine.py"):
        parcel.add_tool(path.name, path)
    parcel.add_text(device_runner.NAME, device_runner.joined().encode())
    return parcel


def ask(
    device: Device, verb: str, request: Mapping[str, Any], *, timeout_s: float = 60, on_line: OnLine | None = None
) -> Any:
    """The runner's answer, still unchecked. Raises DeviceError with the device's message if the runner fails."""
    if not device.python:
        raise DeviceError(
            f"{device.name} ({device.address}): no Python runs there; `edgekd measure --runner` measures without, see docs/devices.md"
        )
    program, mark = device_runner.joined().encode(), f"edgekd-{secrets.token_hex(8)}:"
    words = [device.python, "-c", BOOT.format(size=len(program), old=TOO_OLD)]
    words += ["--request", json.dumps({**request, "verb": verb, "mark": mark, "python": device.python})]
    result = device.run(words, stdin=program, hold=True, timeout_s=timeout_s, on_line=on_line)
    _, marked, text = result.out.decode(errors="replace").rpartition(mark)
    if not marked:
        raise DeviceError(_no_answer(device, result.code, result.err))
    try:
        reply = parse_json(text)
    except ValueError:
        raise DeviceError(f"{device.name}: its answer is cut off; run the command again") from None
    if not isinstance(reply, dict) or "value" not in reply:
        answered(reply, device.name)
        raise DeviceError(f"{device.name}: its answer makes no sense")
    return reply["value"]


def answered(answer: Any, device: str) -> Any:
    """A device's answer, unless it is a failure. Raises DeviceError, or DiffersError if the bundle is not right."""
    if isinstance(answer, dict) and "failure" in answer:
        kind = DiffersError if answer.get("differs") is True else DeviceError
        words = clean(str(answer["failure"])).replace("\n", " ")
        raise kind(f"{device}: {words}")
    return answer


def _no_answer(device: Device, code: int, stderr: str) -> str:
    if code == TOO_OLD:
        return f"{device.name} has Python {clean(stderr)[-8:].strip()}; 3.8 or later is needed (JetPack 5 has 3.8)"
    if code == NOT_FOUND:
        return f"{device.name} has no {device.python}; install Python 3.8 or later there, or name another interpreter (--python)"
    return f"{device.name}: the runner ended with exit code {code}: {clean(last_line(stderr))}"


def probe(device: Device, parcel: Parcel | None = None, *, to: str | None = None) -> Facts:
    """The device's facts, the files of the parcel that it lacks, and the state of the place `to`. Copies nothing."""
    request = {"folder": device.folder, "objects": parcel.keys if parcel else [], "to": to}
    return understand(Facts, ask(device, "probe", request), device.name)


@contextmanager
def sent(device: Device, parcel: Parcel, missing: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Copies the missing files, and gives the part of a request that names the files.

    A failed upload is removed. If it cannot be removed, the next upload of the same files reuses its folder.
    """
    lacking = sorted(set(missing) & set(parcel.keys))  # a device may ask only for offered files
    number = hashlib.sha256("".join(lacking).encode()).hexdigest()[:16]
    request = {"folder": device.folder, "id": number, "bundles": parcel.bundles, "tools": parcel.tools}
    try:
        if lacking:
            ask(device, "open_upload", request)
            with parcel.files(lacking) as files:
                device.put({f"{device.folder}/incoming/{number}/{key}": path for key, path in files.items()})
        yield request
    except DeviceError:
        _drop(device, request)
        raise


def _drop(device: Device, request: Mapping[str, Any]) -> None:
    """Removes an upload, if possible. If the device cannot be reached, a later run removes it."""
    try:
        ask(device, "drop_upload", {"folder": request["folder"], "id": request["id"]}, timeout_s=20)
    except DeviceError:
        return
