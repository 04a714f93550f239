"""The transport to Android, with a program that stands for adb: it runs the words in this machine's shell.

What it stands for: `adb -s SERIAL shell -T WORDS` and `adb -s SERIAL push FILE PLACE` of a device that is connected. What no
fake can show, and what was not tried on a phone: authorisation, SELinux, a shell without these commands, real clocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.errors import DeviceError
from edgekd.measure.binary import measure_with
from edgekd.measure.devices.adb import Adb
from edgekd.measure.on_device import Options, measure_on, trial_of

FAKE_ADB = """#!/bin/sh
test "$1" = -s || exit 64
test "$2" = SERIAL1 || { echo "adb: device '$2' not found" >&2; exit 1; }
case $3 in
  shell) test "$4" = -T || exit 64; sh -c "$5"; exit 0;;
  push) cp "$4" "$5" 2>/dev/null || { echo "adb: error: failed to copy: No such file or directory" >&2; exit 1; };;
esac
"""
PROGRAM = """#!/bin/sh
test -f "$1" || exit 9
echo "warming up"
echo '{"runtime": "made-up 1.0", "threads": 4, "blocks_ms": [[2.0, 2.0, 2.05], [2.0, 2.0, 2.05], [2.0, 2.0, 2.05]]}'
"""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Adb]:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/adb"
    fake.write_text(FAKE_ADB)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "phone").mkdir()
    yield Adb("phone", "SERIAL1", folder=str(tmp_path / "phone"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "my runner"
    path.write_text(PROGRAM)
    return path


@pytest.mark.parametrize("word", ["a b", "it's", '"', "$HOME", "a;b", "*", ""])
def test_every_word_arrives_as_it_is(phone: Adb, word: str) -> None:
    assert phone.run(["printf", "%s", word]).out == word.encode()


def test_the_exit_code_is_echoed_for_an_adb_that_gives_none(phone: Adb) -> None:
    result = phone.run(["sh", "-c", "echo out; exit 7"])

    assert (result.code, result.out) == (7, b"out\n")


def test_a_serial_that_is_not_connected_is_told(phone: Adb) -> None:
    with pytest.raises(DeviceError, match=r"'OTHER' not found.*connected"):
        Adb("other", "OTHER").run(["true"])


def test_a_push_that_fails_is_told(phone: Adb, program: Path) -> None:
    with pytest.raises(DeviceError, match="failed to copy"):
        phone.put({f"{phone.folder}/no/folder/x": program})


@pytest.mark.parametrize("serial", ["-s", "a b", "$(id)", ""])
def test_a_serial_that_is_none_is_refused(serial: str) -> None:
    with pytest.raises(DeviceError, match=r"`adb devices` lists"):
        Adb("phone", serial)


def test_a_program_s_blocks_become_figures_and_nothing_is_left_there(phone: Adb, program: Path, bundle: Path) -> None:
    found = measure_with(f"'{program}'", phone, trial_of(bundle))

    (latency,) = found.latencies
    assert (latency.p50_ms, latency.n, latency.threads, latency.origin) == (2.0, 9, 4, "device")
    assert latency.runtime == "made-up 1.0" and latency.stable and found.unstable == ()
    assert found.golden_ok is None and not found.is_target
    assert found.architecture == os.uname().machine
    assert not list(Path(phone.folder).iterdir())


def test_a_program_that_prints_no_figures_gives_none(phone: Adb, program: Path, bundle: Path) -> None:
    program.write_text("#!/bin/sh\necho 'Average inference time: 3 ms'\n")

    with pytest.raises(DeviceError, match=r"JSON.*docs/devices\.md[\s\S]*Average inference time"):
        measure_with(f"'{program}'", phone, trial_of(bundle))
    assert not list(Path(phone.folder).iterdir())


def test_a_program_that_fails_is_told(phone: Adb, program: Path, bundle: Path) -> None:
    program.write_text("#!/bin/sh\necho 'no such delegate' >&2\nexit 3\n")

    with pytest.raises(DeviceError, match="code 3: no such delegate"):
        measure_with(f"'{program}'", phone, trial_of(bundle))


def test_without_a_program_it_is_told_what_to_do(phone: Adb, bundle: Path) -> None:
    with pytest.raises(DeviceError, match=r"no Python .*`edgekd measure --runner`"):
        measure_on(phone, trial_of(bundle), Options())
