"""The device commands as a user types them, against a real sshd and this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.base.contents import hash_file
from edgekd.bundle.read import add_to_report, read_manifest
from edgekd.figures.candidate import Check
from edgekd.figures.figures import Report
from tests.builders.boards import Board
from tests.builders.bundles import recipe, report, write
from tests.builders.places import hear_interrupts
from tests.builders.typed import typed

SHORT = ("--block-s", "0.02")


def edgekd(*words: str, code: int = 0) -> str:
    ended, text = run(*words)
    assert ended == code, text
    return text


def run(*words: str) -> tuple[int, str]:
    done = typed(*words, cwd=Path.cwd())
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")


def test_from_naming_a_device_to_rolling_back(server: Board, bundle: Path, tmp_path: Path) -> None:
    server.know()
    place = str(tmp_path / "opt" / "a place")
    there = ("--python", sys.executable, "--folder", str(tmp_path / "there"))
    added = edgekd("device", "add", "nano", "--ssh", "board", "--ssh-config", str(server.config), *there)
    assert "onnxruntime" in added and os.uname().machine in added
    assert edgekd("device", "list") == "nano  ssh board\n"
    assert "power modes" in edgekd("device", "probe", "nano")

    measured = edgekd("measure", str(bundle), "--device", "nano", *SHORT, "--batch", "1,2")
    assert "device" in measured and "nano" in measured
    stored = Report.model_validate_json((bundle / "report.json").read_bytes())
    assert [one.batch_size for one in stored.devices[0].latencies] == [1, 2] and stored.devices[0].origin == "device"
    assert "nano" in edgekd("report", str(bundle))

    assert "ok      stored outputs in onnxruntime" in edgekd("verify", str(bundle), "--device", "nano")
    assert "stands" in edgekd("ship", str(bundle), "--device", "nano", "--to", place)
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", labels=("r", "g", "b"))
    assert "is kept (--rollback)" in edgekd("ship", str(other), "--device", "nano", "--to", place)
    edgekd("ship", "--rollback", "--device", "nano", "--to", place)
    assert Path(place, "labels.txt").read_text() == "red\ngreen\nblue\n"

    edgekd("device", "remove", "nano")
    assert "no devices yet" in edgekd("device", "list") and not (tmp_path / "there").exists()
    assert Path(place, "labels.txt").exists()  # what was shipped stays


def test_a_device_that_cannot_be_reached_gets_no_name(tmp_path: Path) -> None:
    (tmp_path / "ssh_config").write_text("Host off\n  HostName 127.0.0.1\n  Port 1\n")
    text = edgekd("device", "add", "off", "--ssh", "off", "--ssh-config", str(tmp_path / "ssh_config"), code=2)

    assert "cannot be reached" in text and "no devices yet" in edgekd("device", "list")
    edgekd("device", "add", "off", "--ssh", "off", "--ssh-config", str(tmp_path / "ssh_config"), "--no-probe")
    assert "; --keep-files" in edgekd("device", "remove", "off", code=2)
    edgekd("device", "remove", "off", "--keep-files")


def test_ctrl_c_ends_the_measurement_here_and_there(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekd.cli", "measure", str(bundle), "-d", "local", "--sustained", "10m"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "timing batch 1" in line:
                break
        process.send_signal(signal.SIGINT)
        text = process.stderr.read()

    assert process.returncode == 130 and "stopped" in text, text
    work = tmp_path / "cache/edgekd-device/work"
    for _ in range(100):
        if not list(work.iterdir()):
            return
        time.sleep(0.1)
    raise AssertionError("the runner goes on")


def change_there(place: Path, name: str, text: str) -> None:
    """As somebody on the device would who knows of the manifest."""
    (place / name).write_text(text)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"][name] = hash_file(place / name)
    (place / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_shipped_file_that_was_changed_there_is_put_right_by_shipping_again_and_said(
    bundle: Path, tmp_path: Path, with_manifest: bool
) -> None:
    place = tmp_path / "place"
    edgekd("ship", str(bundle), "-d", "local", "--to", str(place))
    if with_manifest:
        change_there(place, "labels.txt", "x\ny\nz\n")
    else:
        (place / "labels.txt").write_text("x\ny\nz\n")

    said = edgekd("ship", str(bundle), "-d", "local", "--to", str(place))

    assert (
        f"damaged and was written anew: the bundle is not as it was written: {'manifest.json' if with_manifest else 'labels.txt'}"
        in said
    )
    assert (place / "labels.txt").read_text() == "red\ngreen\nblue\n"
    assert "stands already" in edgekd("ship", str(bundle), "-d", "local", "--to", str(place))


def test_measuring_makes_no_other_version_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    """Its report grows, its manifest too; a second version of the same model would push the real one before it out."""
    place = tmp_path / "place"
    (tmp_path / "new").mkdir()
    other = write(tmp_path / "new", labels=("r", "g", "b"))
    edgekd("ship", str(other), "-d", "local", "--to", str(place))
    edgekd("ship", str(bundle), "-d", "local", "--to", str(place))
    edgekd("measure", str(bundle), "-d", "local", *SHORT)

    assert "stands already" in edgekd("ship", str(bundle), "-d", "local", "--to", str(place))
    edgekd("ship", "--rollback", "-d", "local", "--to", str(place))
    assert (place / "labels.txt").read_text() == "r\ng\nb\n"


def test_no_rollback_is_announced_to_a_version_that_was_damaged(bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    edgekd("ship", str(bundle), "-d", "local", "--to", str(place))
    (place / "labels.txt").write_text("x\ny\nz\n")
    (tmp_path / "new").mkdir()

    said = edgekd("ship", str(write(tmp_path / "new", labels=("r", "g", "b"))), "-d", "local", "--to", str(place))

    assert "(--rollback)" not in said and "is damaged there: " in said and "labels.txt" in said
    said = edgekd("ship", "--rollback", "-d", "local", "--to", str(place), code=3)
    assert "cannot be put back" in said and "ship what shall stand there" in said


def test_figures_of_this_machine_are_the_host_s_also_where_the_runner_ran_alone(bundle: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-B",
        str(bundle / "device_runner.py"),
        "--block-s",
        "0.02",
        "--output",
        str(tmp_path / "f.json"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    edgekd("device", "add", "here", "--local", "--no-probe")
    for name, origin in (("local", "host"), ("here", "host"), ("far", "device")):
        edgekd("measure", str(bundle), "-d", name, "--figures", str(tmp_path / "f.json"))
        found = Report.model_validate_json((bundle / "report.json").read_bytes()).devices[-1]
        assert (found.device, found.origin) == (name, origin)
    edgekd("report", str(bundle), "--forget", "far")
    left = Report.model_validate_json((bundle / "report.json").read_bytes())
    assert [d.device for d in left.devices] == ["local", "here"]
    # This machine is of the target's kind, and was named as the device.
    assert not [check for check in left.checks if check.name == "latency on the device"]
    assert "figures of 'far'" in edgekd("report", str(bundle), "--forget", "far", code=2)


def test_what_is_wrong_with_a_bundle_is_told_before_it_is_measured(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    assert "notes.txt  not listed" in edgekd("verify", str(bundle), "-d", "local", code=3)
    assert "notes.txt is not listed" in edgekd("measure", str(bundle), "-d", "local", code=2)
    (bundle / "notes.txt").unlink()
    changed = {**json.loads((bundle / "report.json").read_text()), "of_another_edgekd": 1}
    (bundle / "report.json").write_text(json.dumps(changed))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["report.json"] = hash_file(bundle / "report.json")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    said = edgekd("measure", str(bundle), "-d", "local", code=2)
    assert "; build again" in said and "timing" not in said


def test_a_device_is_forgotten_with_its_files_and_an_unnamed_one_by_its_address(bundle: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    edgekd("device", "add", "one", "--local", "--folder", str(given), "--no-probe")
    edgekd("device", "add", "two", "--local", "--folder", str(given), "--no-probe")
    edgekd("verify", str(bundle), "-d", "one")
    (given / "mine").write_text("years of work")

    assert "they are two's too" in edgekd("device", "remove", "one") and (given / "objects").is_dir()
    edgekd("device", "remove", "two")
    assert [path.name for path in given.iterdir()] == [
        "mine"
    ]  # a folder that was given stays, and what is no file of edgekd's
    edgekd("verify", str(bundle), "-d", "local")
    assert (tmp_path / "cache/edgekd-device/objects").is_dir()
    edgekd("device", "remove", "local")
    assert not (tmp_path / "cache/edgekd-device").exists()


def test_a_bundle_that_misses_a_check_is_shipped_only_anyway(bundle: Path, tmp_path: Path) -> None:
    missed = Check(name="size_mb", verdict="missed", found="0.310 MB", limit="at most 0.05")
    add_to_report(bundle, lambda report, _: report.model_copy(update={"checks": (missed,)}))
    place = tmp_path / "place"
    words = ("ship", str(bundle), "-d", "local", "--to", str(place))
    said = edgekd(*words, code=3)
    assert "NOT TO SHIP: 1 check missed (size_mb)" in said and "--anyway" in said and not place.exists()
    assert "stands" in edgekd(*words, "--anyway") and (place / "README.txt").read_text().startswith("NOT TO SHIP")


def test_a_file_of_somebody_else_in_what_was_shipped_is_not_removed(bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    edgekd("ship", str(bundle), "-d", "local", "--to", str(place))
    (place / "app.log").write_text("years of work")

    said = edgekd("ship", str(bundle), "-d", "local", "--to", str(place), code=2)

    assert ": app.log; move them away" in said
    assert (place / "app.log").read_text() == "years of work"


def test_no_rollback_to_a_version_that_was_changed_there(bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    edgekd("ship", str(bundle), "-d", "local", "--to", str(place))
    first = place.resolve()
    (tmp_path / "new").mkdir()
    edgekd("ship", str(write(tmp_path / "new", labels=("r", "g", "b"))), "-d", "local", "--to", str(place))
    change_there(first, "labels.txt", "x\ny\nz\n")

    assert "manifest.json was changed" in edgekd("ship", "--rollback", "-d", "local", "--to", str(place), code=3)
    assert (place / "labels.txt").read_text() == "r\ng\nb\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("measure", "BUNDLE", "-d", "nanno"), "device 'nanno' not found"),
        (("measure", "BUNDLE", "-d", "local", "--threads", "x"), "--threads x; write numbers"),
        (("measure", "BUNDLE", "-d", "local", "--cpus", "1-0"), "--cpus 1-0: 1-0 goes backwards"),
        (("measure", "BUNDLE", "-d", "local", "--threads", "2-1"), "--threads 2-1: 2-1 goes backwards"),
        (
            ("measure", "BUNDLE", "-d", "local", "--threads", "0"),
            "threads 0, batch 1, 3 blocks",
        ),
        (("measure", "BUNDLE", "-d", "local", "--threads", "4000"), "4000 threads on its"),
        (("measure", "BUNDLE", "-d", "local", "--threads", "2", "--cpus", "0"), "2 threads on 1 cores (0)"),
        (("measure", "BUNDLE", "-d", "local", "--cpus", "0,4000"), "cores [0, 4000] cannot be used"),
        (
            ("measure", "BUNDLE", "-d", "local", "--batch", "1,2", "--sustained", "9s"),
            "--sustained goes with one",
        ),
        (("measure", "BUNDLE", "-d", "local", "--engine-option", "x"), "onnxruntime builds no engine"),
        (("verify", "BUNDLE", "-d", "local", "-d", "other"), "takes one --device; 2"),
        (("measure", "BUNDLE", "-d", "local", "--sustained", "long"), "write 90s, 30m or 2h"),
        (("measure", "BUNDLE", "-d", "local", "--accuracy", "train"), "possible: test, or test:N"),
        (("measure", "BUNDLE", "-d", "local", "--power-mode", "MAXN"), "it has no power mode MAXN"),
        (("measure", "BUNDLE", "-d", "local", "--runtime", "tvm"), "possible: onnxruntime, tensorrt"),
        (("ship", "BUNDLE", "-d", "local"), "Give --device and --to"),
        (("ship", "BUNDLE", "-d", "local", "--to", "/x", "--rollback"), "or --rollback"),
        (("device", "add", "x"), "one of local, ssh, adb, emulated"),
        (("device", "add", "x", "--ssh", "a", "--adb", "b"), "given: ssh, adb"),
        (("device", "add", "a b", "--ssh", "a"), "device name 'a b'"),
        (("device", "remove", "none"), "device 'none' not found"),
    ],
)
def test_what_cannot_work_is_told(bundle: Path, words: tuple[str, ...], message: str) -> None:
    text = edgekd(*(str(bundle) if word == "BUNDLE" else word for word in words), code=2)

    assert message in " ".join(text.split())


def test_a_name_that_is_taken_is_given_away_only_where_that_is_asked() -> None:
    edgekd("device", "add", "nano", "--ssh", "jetson@nano", "--no-probe")

    assert "ssh jetson@nano already" in edgekd("device", "add", "nano", "--local", "--no-probe", code=2)
    edgekd("device", "add", "nano", "--local", "--no-probe", "--replace")
    assert edgekd("device", "list").split() == ["nano", "local"]


def test_a_damaged_bundle_is_told_file_by_file_before_any_device_is_asked(bundle: Path) -> None:
    (bundle / "labels.txt").write_text("x\n")
    assert edgekd("verify", str(bundle), "-d", "ssh:nobody@nowhere", code=3).strip() == "FAILED  labels.txt  changed"


def test_a_registry_with_mistakes_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config/edgekd/devices.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[nano]\nssh = "nano"\npasword = "x"\n')
    assert "settings of ssh" in edgekd("device", "list", code=2)
    file.write_text("[nano\n")
    assert "devices.toml:1 column 6: not TOML" in edgekd("device", "list", code=2)


def test_the_latency_budget_is_decided_on_a_device_of_the_target_s_kind(tmp_path: Path) -> None:
    """The same milliseconds pass, miss, or decide nothing, by the budget and by what the bundle was built for."""
    from edgekd.target import load_target

    machine = "x86-cpu" if os.uname().machine == "x86_64" else "raspberry-pi-5"
    other = "raspberry-pi-5" if machine == "x86-cpu" else "x86-cpu"
    for target, budget, verdict in ((machine, 1e9, "pass"), (machine, 1e-9, "missed"), (other, 1e9, "not measured")):
        folder = tmp_path / f"{target}-{budget}"
        folder.mkdir()
        wanted = recipe(budget={"p90_latency_ms": budget})
        made = write(folder, target=load_target(target), recipe=wanted, report=report())
        ended, text = run("measure", str(made), "-d", "local", "--block-s", "0.3")
        stored = Report.model_validate_json((made / "report.json").read_bytes())
        (check,) = [check for check in stored.checks if check.name == "p90_latency_ms"]
        steady = not stored.devices[0].unstable
        # Beside other programs this machine need not be steady, and then it decides nothing.
        assert check.verdict == (verdict if steady or verdict == "not measured" else "unstable"), text
        assert ended == (3 if check.verdict == "missed" else 0), text
        assert read_manifest(made).figures


def test_help_of_the_device_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from edgekd.cli import app\n"
        "for words in (['device', '--help'], ['measure', '--help'], ['ship', '--help'], ['device', 'list']):\n"
        "    result = CliRunner().invoke(app, words)\n"
        "    assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
