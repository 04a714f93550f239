"""The whole path over a real sshd: probe, measure, verify, ship, roll back; what goes wrong on the way costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgekd.base.contents import hash_file
from edgekd.errors import DeviceError
from edgekd.figures.figures import Report
from edgekd.measure.devices import Device
from edgekd.measure.devices.named import open_device
from edgekd.measure.devices.process import Result
from edgekd.measure.devices.ssh import Ssh
from edgekd.measure.on_device import Options, measure_on, roll_back, ship_to, trial_of, verify_on
from edgekd.measure.remote import ask, parcel_of, probe, sent
from edgekd.measure.side_by_side import measure_all
from tests.builders.boards import Board, name_device, need_sshd, start_sshd, stop
from tests.builders.bundles import write

SHORT = Options(warmup_s=0.02, block_s=0.02, min_n=30)


@pytest.fixture
def device(board: Board) -> Iterator[Device]:
    with open_device("board") as opened:
        yield opened


class Watched(Ssh):
    """The real device, with a note of what is copied to it."""

    def __init__(self, *words: Any, **settings: Any) -> None:
        super().__init__(*words, **settings)
        self.copied: list[str] = []

    def put(self, files: Any) -> None:
        self.copied += files
        super().put(files)


@contextmanager
def watched(board: Board, folder: Path) -> Iterator[Watched]:
    device = Watched("board", "board", str(folder), python=sys.executable, config=str(board.config))
    try:
        yield device
    finally:
        device.close()


# ------------------------------------------------------------------------------------------------------------ the verbs


def test_every_word_arrives_as_it_is(device: Device) -> None:
    words = ["a b", "it's", '"', "$HOME", "`id`", "a;b", "*", "\\", "ünï", "", "-n", "--", "a\nb", "&& false", "~"]
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"

    assert json.loads(device.run([device.python, "-c", code, *words]).out) == words


def test_the_exit_code_and_standard_error_come_back(device: Device) -> None:
    result = device.run(["sh", "-c", "echo out; echo wrong >&2; exit 7"])

    assert (result.code, result.out, result.err.strip()) == (7, b"out\n", "wrong")


def test_one_connection_is_used_again(device: Device, board: Board) -> None:
    for _ in range(3):
        device.run(["true"])

    assert len(board.sessions()) == 1


def test_close_ends_the_connection(board: Board) -> None:
    with open_device("board") as device:
        device.run(["true"])
    for _ in range(50):
        if not board.sessions():
            return
        time.sleep(0.05)
    raise AssertionError("the connection is still there")


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b", "a;b", "$(id)", ""])
def test_a_host_that_ssh_would_take_for_something_else_is_refused(host: str) -> None:
    with pytest.raises(DeviceError, match=r"ssh takes.*~/\.ssh/config"):
        Ssh("x", host, "folder")


def test_files_arrive_whole(device: Device, tmp_path: Path) -> None:
    source = tmp_path / 'it\'s [a] "file"\n'
    source.write_bytes(os.urandom(300_000))
    (tmp_path / "there").mkdir()

    device.put({f"{device.folder}/one": source, f"{device.folder}/two": source})

    assert (tmp_path / "there/one").read_bytes() == (tmp_path / "there/two").read_bytes() == source.read_bytes()


def test_files_arrive_without_an_sftp_server(tmp_path: Path) -> None:
    need_sshd()
    (tmp_path / "sshd").mkdir()
    board = start_sshd(tmp_path / "sshd", sftp=False)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    (tmp_path / "there").mkdir()
    try:
        device = Ssh("board", "board", str(tmp_path / "there"), config=str(board.config))
        device.put({f"{tmp_path}/there/file": source})
        device.close()
    finally:
        stop(board)

    assert (tmp_path / "there/file").read_bytes() == source.read_bytes()


# ------------------------------------------------------------------------------------------------------------ host keys


def test_an_unknown_host_key_is_refused(board: Board, device: Device) -> None:
    board.known_hosts.unlink()

    with pytest.raises(DeviceError, match=r"key .*`ssh -F .*fingerprint"):
        probe(device)
    assert not board.known_hosts.exists()


def test_a_changed_host_key_is_refused(board: Board, device: Device) -> None:
    board.know("other_key")

    with pytest.raises(DeviceError, match=r"key .*known_hosts.*ssh-keygen -R"):
        probe(device)


def test_nothing_in_the_code_touches_the_checking_of_host_keys(device: Device) -> None:
    assert isinstance(device, Ssh)
    given = " ".join(device._connection()).lower()

    assert "stricthostkeychecking" not in given and "knownhosts" not in given


def test_a_device_that_is_switched_off_is_told(board: Board, tmp_path: Path) -> None:
    config = tmp_path / "off"
    config.write_text(board.config.read_text().replace(f"Port {board.port}", "Port 1"))

    with pytest.raises(DeviceError, match=r"off \(board\): .*does sshd run"):
        probe(Ssh("off", "board", "folder", config=str(config)))


# ---------------------------------------------------------------------------------------------------------------- probe


def test_the_probe_tells_what_runs_there_and_copies_nothing(device: Device, tmp_path: Path) -> None:
    facts = probe(device)

    assert facts.python == sys.version.split()[0]
    assert facts.machine == os.uname().machine and facts.cores == len(os.sched_getaffinity(0))
    assert facts.runtimes["onnxruntime"] and facts.runtimes["numpy"]
    assert not list((tmp_path / "there").rglob("*.*"))


def test_what_a_login_shell_prints_is_not_taken_for_the_answer(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    talkative = device.run

    def run(*words: Any, **settings: Any) -> Result:
        result = talkative(*words, **settings)
        return Result(result.code, b'Welcome!\nedgekd-0000:{"value": 1}\n' + result.out, result.err)

    monkeypatch.setattr(device, "run", run)

    assert probe(device).python == sys.version.split()[0]


def test_a_device_without_python_is_told(board: Board, tmp_path: Path) -> None:
    name_device(board, tmp_path, python="/no/python3")
    with open_device("board") as device, pytest.raises(DeviceError, match=r"no /no/python3; .*3\.8 .*--python"):
        probe(device)


def test_an_older_python_is_told(board: Board, tmp_path: Path) -> None:
    """A script stands for Python 3.6: it says that it were, and else is this Python."""
    fake = tmp_path / "fake_python36"
    fake.write_text(
        f'#!/bin/sh\nshift; code="$1"; shift\nexec {sys.executable} -c '
        '"import sys; sys.version_info = (3, 6, 9, \'final\', 0); $code" "$@"\n'
    )
    fake.chmod(0o755)
    name_device(board, tmp_path, python=str(fake))

    with open_device("board") as device, pytest.raises(DeviceError, match=r"Python 3\.6; 3\.8 or later"):
        probe(device)


def test_a_device_without_the_runtime_is_told_before_anything_is_copied(
    board: Board, bundle: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    name_device(board, tmp_path, python=str(bare / "bin/python"))

    with open_device("board") as device, pytest.raises(DeviceError) as refused:
        measure_on(device, trial_of(bundle), SHORT)
    assert "it has no onnxruntime" in str(refused.value) and "pip install onnxruntime" in str(refused.value)
    assert "it has no numpy" in str(refused.value) and "nothing was copied" in str(refused.value)
    assert not list((tmp_path / "there/objects").iterdir()) and not list((tmp_path / "there/incoming").iterdir())


# -------------------------------------------------------------------------------------------------------------- measure


def test_a_measurement_comes_back_as_a_device_s(device: Device, bundle: Path, tmp_path: Path) -> None:
    found = measure_on(device, trial_of(bundle), Options(warmup_s=0.02, block_s=0.02, batches=(1, 3), threads=(1, 2)))

    assert found.golden_ok and found.device == "board" and found.origin == "device"
    assert [(one.batch_size, one.threads) for one in found.latencies] == [(1, 1), (3, 1), (1, 2), (3, 2)]
    assert all(one.origin == "device" and one.n >= 60 and len(one.block_medians_ms) == 3 for one in found.latencies)
    assert found.load_ms > 0 and found.first_ms > 0 and found.peak_memory_mb is not None
    assert not list((tmp_path / "there/work").iterdir()) and not list((tmp_path / "there/incoming").iterdir())


def test_a_repeated_measurement_copies_nothing(board: Board, bundle: Path, tmp_path: Path) -> None:
    with watched(board, tmp_path / "there") as device:
        measure_on(device, trial_of(bundle), SHORT)
        first, device.copied = len(device.copied), []
        measure_on(device, trial_of(bundle), SHORT)

        assert first == 6  # model, stored outputs, their manifest, three scripts
        assert device.copied == []


def test_figures_reach_the_report_and_the_manifest_and_the_bundle_stays_whole(board: Board, bundle: Path) -> None:
    from edgekd.bundle.read import read_manifest
    from edgekd.bundle.write import verify_bundle

    measure_all(bundle, ["board"], SHORT)
    again, report = measure_all(bundle, ["board"], SHORT)

    assert Report.model_validate_json((bundle / "report.json").read_bytes()) == report
    assert report.devices == tuple(again)  # the newer figures stand in place of the older
    rows = [row for row in read_manifest(bundle).figures if row.origin == "device"]
    assert {row.figure for row in rows} >= {"p50_ms", "p90_ms", "load_ms"}
    assert {row.device for row in rows} == {"board"}
    assert "board" in (bundle / "report.html").read_text()
    assert all(ok for _, ok, _ in verify_bundle(bundle))


def test_several_devices_are_measured_at_once_and_one_that_fails_stops_no_other(
    board: Board, bundle: Path, tmp_path: Path
) -> None:
    name_device(board, tmp_path, "second", folder=str(tmp_path / "second"))
    name_device(board, tmp_path, "broken", python="/no/python3")

    found, report = measure_all(bundle, ["board", "broken", "second"], SHORT)

    assert [device.device for device in found] == ["board", "second"]
    assert [device.device for device in report.devices] == ["board", "second"]


def test_two_at_once_on_one_device_are_refused(device: Device, bundle: Path, tmp_path: Path) -> None:
    import fcntl

    probe(device)
    with open(tmp_path / "there/lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DeviceError, match=r"another edgekd .*wait for it"):
            measure_on(device, trial_of(bundle), SHORT)


def test_a_connection_cut_in_the_middle_leaves_nothing_running_and_can_be_repeated(
    board: Board, bundle: Path, tmp_path: Path
) -> None:
    with watched(board, tmp_path / "there") as device:
        failures = []

        def run() -> None:
            try:
                measure_on(device, trial_of(bundle), Options(warmup_s=60))
            except DeviceError as error:
                failures.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        work = tmp_path / "there/work"
        _until(lambda: work.is_dir() and any(work.glob("*/bundle-bundle/model.onnx")))
        time.sleep(0.5)
        board.cut()
        thread.join(30)

        assert len(failures) == 1 and "the connection was lost" in failures[0]
        _until(lambda: not list(work.iterdir()))  # the runner noticed, cleaned up and ended
        device.copied = []
        assert measure_on(device, trial_of(bundle), SHORT).golden_ok
        assert device.copied == []


SLEEPER = """
import os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open({note!r} + ".draft", "w") as file:
    file.write(f"{{os.getpid()}} {{grandchild.pid}}")
os.rename({note!r} + ".draft", {note!r})
time.sleep(600)
"""


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", ["the connection is cut", "the runner is killed"])
def test_an_engine_that_is_being_built_ends_with_the_connection_and_with_the_runner(
    board: Board, bundle: Path, tmp_path: Path, how: str
) -> None:
    """In place of build_engine.py a script is sent that takes its time; no engine is built, and nothing stands for one."""
    note, failures = tmp_path / "note", []
    script = tmp_path / "build_engine.py"
    script.write_text(SLEEPER.format(note=str(note)))
    with watched(board, tmp_path / "there") as device:
        parcel = parcel_of(bundle)
        parcel.add_tool("build_engine.py", script)
        missing = probe(device, parcel).missing

        def run() -> None:
            try:
                with sent(device, parcel, missing) as files:
                    ask(device, "verify", {**files, "runtime": "tensorrt", "engine_options": ()}, timeout_s=600)
            except DeviceError as error:
                failures.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        _until(note.exists)
        child, grandchild = map(int, note.read_text().split())
        assert runs(child) and runs(grandchild)
        if how == "the connection is cut":
            board.cut()
        else:
            parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGKILL)
        thread.join(30)

        assert len(failures) == 1
        _until(lambda: not runs(child))
        if how == "the connection is cut":
            _until(lambda: not runs(grandchild))
        else:
            os.kill(grandchild, signal.SIGKILL)  # the kernel tells the child alone
        device.copied = []
        assert measure_on(device, trial_of(bundle), SHORT).golden_ok
        assert not list((tmp_path / "there/work").iterdir())


def test_a_calibration_that_is_cut_ends_on_the_device_and_leaves_nothing(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd.measure.estimate import calibrate as module
    from edgekd.measure.estimate.nets import write_networks

    monkeypatch.setattr(module, "BLOCK_MS", 60_000.0)
    (held_out,) = write_networks(tmp_path, 1, "fp32")
    there = tmp_path / "there"
    with watched(board, there) as device:
        failures = []

        def run() -> None:
            try:
                module.calibrate(device, {"one": held_out}, networks={"fp32": 2})
            except DeviceError as error:
                failures.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        _until(lambda: list(there.glob("task-*/device_timings.py")))
        _until(lambda: [p for p in processes() if "device_timings.py" in p and str(there) in p])
        time.sleep(1)
        board.cut()
        thread.join(60)

        assert len(failures) == 1
        _until(lambda: not [p for p in processes() if "device_timings.py" in p and str(there) in p])
        assert not list(there.glob("task-*"))


def processes() -> list[str]:
    """The commands that run here."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [command for command in found if not command.startswith("ssh ")]


def _until(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_damaged_file_in_the_store_is_sent_again(board: Board, bundle: Path, tmp_path: Path) -> None:
    with watched(board, tmp_path / "there") as device:
        verify_on(device, bundle)
        stored = max((tmp_path / "there/objects").iterdir(), key=lambda path: path.stat().st_size)
        stored.write_bytes(stored.read_bytes()[:-1])
        device.copied = []

        verify_on(device, bundle)

        assert [path.rpartition("/")[2] for path in device.copied] == [stored.name]


def test_bytes_that_change_on_the_way_are_refused(device: Device, bundle: Path, tmp_path: Path) -> None:
    parcel = parcel_of(bundle)
    facts = probe(device, parcel)
    with pytest.raises(DeviceError, match="other bytes"), sent(device, parcel, facts.missing) as files:
        upload = next((tmp_path / "there/incoming").iterdir())
        (upload / next(iter(parcel.paths))).write_bytes(b"something else")
        ask(device, "verify", {**files, "runtime": "onnxruntime", "engine_options": ()})
    assert not (tmp_path / "there/incoming").exists() or not list((tmp_path / "there/incoming").iterdir())


def test_a_path_that_leaves_the_bundle_is_refused_there_too(device: Device, bundle: Path, tmp_path: Path) -> None:
    """The host refuses such a bundle; here the device is asked as a broken host would ask."""
    for name in ("../evil", "/etc/evil", "a/b", "..", "a\\b"):
        parcel = parcel_of(bundle)
        facts = probe(device, parcel)
        parcel.bundles["bundle"][name] = parcel.bundles["bundle"]["labels.txt"]
        with pytest.raises(DeviceError, match=r"board: '.*' leaves"), sent(device, parcel, facts.missing) as files:
            ask(device, "verify", {**files, "runtime": "onnxruntime", "engine_options": ()})
    assert not list(tmp_path.rglob("evil")) and not Path("/etc/evil").exists()


# ----------------------------------------------------------------------------------------------------- verify, ship, back


def test_a_bundle_is_verified_there(device: Device, bundle: Path) -> None:
    assert "top-1 agrees on 16 of 16" in verify_on(device, bundle).detail


def test_a_changed_bundle_is_refused_before_it_is_sent(board: Board, bundle: Path, tmp_path: Path) -> None:
    from edgekd.errors import BundleError

    (bundle / "labels.txt").write_text("x\ny\nz\n")
    with watched(board, tmp_path / "there") as device, pytest.raises(BundleError, match=r"labels\.txt changed"):
        verify_on(device, bundle)


def test_shipping_keeps_the_version_before_and_rolls_back_and_forth(
    device: Device, bundle: Path, tmp_path: Path
) -> None:
    to = tmp_path / "opt" / 'it\'s a "place" $HOME'
    first = ship_to(device, bundle, str(to))
    assert (to / "labels.txt").read_text() == "red\ngreen\nblue\n"
    (tmp_path / "new").mkdir()
    second = ship_to(device, write(tmp_path / "new", labels=("r", "g", "b")), str(to))
    assert second.before == first.version and (to / "labels.txt").read_text() == "r\ng\nb\n"

    back = roll_back(device, str(to))
    assert back.version == first.version and (to / "labels.txt").read_text() == "red\ngreen\nblue\n"
    assert roll_back(device, str(to)).version == second.version
    done = subprocess.run(
        [sys.executable, "-B", str(to / "run.py"), "--verify"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_shipping_the_same_again_changes_nothing(board: Board, bundle: Path, tmp_path: Path) -> None:
    to = str(tmp_path / "place")
    with watched(board, tmp_path / "there") as device:
        ship_to(device, bundle, to)
        device.copied = []
        again = ship_to(device, bundle, to)

    assert again.unchanged and device.copied == []


def test_only_two_versions_are_kept(device: Device, tmp_path: Path) -> None:
    to = tmp_path / "place"
    for n in range(4):
        (tmp_path / str(n)).mkdir()
        ship_to(device, write(tmp_path / str(n), labels=(str(n), "g", "b")), str(to))

    kept = sorted(path.name for path in (tmp_path / ".place.edgekd").iterdir() if len(path.name) == 16)
    assert len(kept) == 2 and (to / "labels.txt").read_text().startswith("3")


def test_a_folder_of_other_files_is_not_replaced(device: Device, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")

    with pytest.raises(DeviceError, match=r"/mine .*give another place"):
        ship_to(device, bundle, str(tmp_path / "mine"))
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_a_model_that_computes_something_else_there_is_not_switched_to(
    device: Device, bundle: Path, tmp_path: Path
) -> None:
    """A device that computes otherwise is stood for by stored outputs that are wrong; the host's own check is left out."""
    import numpy as np

    to = tmp_path / "place"
    ship_to(device, bundle, str(to))
    other = write(tmp_path, labels=("r", "g", "b"))
    with np.load(other / "golden.npz") as stored:
        inputs, outputs = stored["inputs"], stored["outputs"]
    np.savez(other / "golden.npz", inputs=inputs, outputs=outputs + 1)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = hash_file(other / "golden.npz")
    (other / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(DeviceError, match=r"board: .*stored outputs .* as before"):
        ship_to(device, other, str(to))
    assert (to / "labels.txt").read_text() == "red\ngreen\nblue\n"
    assert not list((tmp_path / ".place.edgekd").glob("draft-*"))
    found = measure_on(device, trial_of(other), SHORT)
    assert not found.golden_ok and found.latencies == ()


def test_a_rollback_without_a_version_before_is_refused(device: Device, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="nothing was shipped"):
        roll_back(device, str(tmp_path / "place"))
    ship_to(device, bundle, str(tmp_path / "place"))
    with pytest.raises(DeviceError, match="no version before"):
        roll_back(device, str(tmp_path / "place"))


# ---------------------------------------------------------------------------------------------------------------- room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "edgekd-test", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted by this user; root can")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_device_without_room_is_told_before_anything_is_copied(
    board: Board, bundle: Path, small_disk: Path, tmp_path: Path
) -> None:
    name_device(board, tmp_path, folder=str(small_disk))

    with open_device("board") as device, pytest.raises(DeviceError, match=r"MB are free .*device add --folder"):
        measure_on(device, trial_of(bundle), SHORT)
    assert not list((small_disk / "objects").iterdir())


def test_a_place_without_room_is_told_before_anything_is_copied(device: Device, bundle: Path, small_disk: Path) -> None:
    with pytest.raises(DeviceError, match=r"MB are free at .*/small/place"):
        ship_to(device, bundle, str(small_disk / "place"))
    assert not list(small_disk.iterdir())


def test_a_disk_that_fills_up_on_the_way_is_told_and_left_clean(
    board: Board, bundle: Path, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room was there when it was looked at: the check before is left out."""
    monkeypatch.setattr("edgekd.measure.fitness.ROOM_MB", -1000)
    (small_disk / "store").mkdir()
    (small_disk / "ballast").write_bytes(bytes(230_000))
    name_device(board, tmp_path, folder=str(small_disk / "store"))

    with open_device("board") as device, pytest.raises(DeviceError, match=r"No space left|cannot be written"):
        verify_on(device, bundle)
    assert not list((small_disk / "store/incoming").iterdir())
