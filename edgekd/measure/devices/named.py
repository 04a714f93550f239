"""Named devices in $XDG_CONFIG_HOME/edgekd/devices.toml, a table for each. `open_device` opens any of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgekd.base.contents import write_atomically
from edgekd.base.places import user_folder
from edgekd.base.toml_file import parse_toml
from edgekd.errors import DeviceError, RecipeError, nearest
from edgekd.measure.devices import KINDS, Device

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
FOLDER = ".cache/edgekd-device"
HEADER = "# edgekd's devices; `edgekd device add|list|remove` writes this file.\n"
Settings = dict[str, str]


def devices_file() -> Path:
    """The path of the file of named devices."""
    return user_folder("XDG_CONFIG_HOME", ".config") / "edgekd" / "devices.toml"


def _local_folder() -> Path:
    return user_folder("XDG_CACHE_HOME", ".cache") / "edgekd-device"


def list_devices() -> dict[str, Settings]:
    """Name -> settings. Exactly one key of the settings is the kind. Raises DeviceError for a file with mistakes."""
    file = devices_file()
    try:
        tables = parse_toml(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        return {}
    except RecipeError as error:
        raise DeviceError(str(error)) from error
    except (OSError, ValueError) as error:
        raise DeviceError(f"{file} cannot be read: {error}") from error
    for name, settings in tables.items():
        check(name, settings, f"{file}, [{name}]")
    return tables


def check(name: str, settings: object, where: str) -> None:
    """Raises DeviceError for settings that do not describe a device."""
    if not NAME.fullmatch(name):
        raise DeviceError(f"device name {name!r}; letters, digits, and ._- are possible")
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise DeviceError(f'{where}: a device is a table of texts, as ssh = "user@host"')
    kinds = [kind for kind in KINDS if kind in settings]
    if len(kinds) != 1:
        raise DeviceError(f"{where}: exactly one of {', '.join(KINDS)} is needed; given: {', '.join(kinds) or 'none'}")
    make(name, settings).close()


def make(name: str, settings: Mapping[str, str]) -> Device:
    """A device from its settings, without a connection yet. Raises DeviceError."""
    kind = next(kind for kind in KINDS if kind in settings)
    rest = {key: value for key, value in settings.items() if key != kind}
    if kind in ("local", "ssh"):
        rest.setdefault("folder", FOLDER if kind == "ssh" else str(_local_folder()))
    try:
        return KINDS[kind](name, settings[kind], **rest)
    except TypeError:
        given = ", ".join(key if key.isprintable() else ascii(key) for key in rest)
        raise DeviceError(f"device {name}: {given} given; not all of them are settings of {kind}") from None


def write_device(name: str, settings: Settings) -> None:
    """Adds a device to the file or replaces it."""
    check(name, settings, f"device {name}")
    _write({**list_devices(), name: settings})


def remove_device(name: str) -> None:
    """Removes a device from the file. Raises DeviceError if no device has this name."""
    devices = list_devices()
    if name not in devices:
        raise DeviceError(f"device {name!r} not found{nearest(name, devices)}")
    _write({known: settings for known, settings in devices.items() if known != name})


def _write(devices: Mapping[str, Settings]) -> None:
    tables = [
        f'["{name}"]\n'
        + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
        for name, settings in sorted(devices.items())
    ]
    file = devices_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "\n".join([HEADER, *tables]).encode())


@contextmanager
def open_device(name: str) -> Iterator[Device]:
    """Opens the device of this name, or of a kind with its address: `local`, `ssh:user@host`, `adb:SERIAL`.

    Raises DeviceError for an unknown name.
    """
    devices = list_devices()
    kind, _, address = name.partition(":")
    if name in devices:
        device = make(name, devices[name])
    elif kind in KINDS and (address or kind == "local"):
        device = make(name, {kind: address})
    else:
        possible = [*devices, *(f"{kind}:..." for kind in KINDS if kind != "local"), "local"]
        raise DeviceError(f"device {name!r} not found{nearest(name, possible)} `edgekd device add` names one")
    try:
        yield device
    finally:
        device.close()
