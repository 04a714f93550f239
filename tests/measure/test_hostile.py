"""A device that answers nonsense, and a store that is somebody else's folder: nothing is believed, nothing is lost."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgekd.cache.fingerprint import current_report
from edgekd.errors import BundleError, DeviceError
from edgekd.figures.figures import DeviceState, Energy
from edgekd.measure.answer import Answer, Facts, understand
from edgekd.measure.binary import _last_json
from edgekd.measure.devices.local import Local
from edgekd.measure.devices.process import Result, run_process
from edgekd.measure.devices.ssh import Ssh
from edgekd.measure.on_device import Options, figures_of, measure_on, ship_to, trial_of, verify_on
from edgekd.measure.remote import ask, parcel_of, probe, sent
from edgekd.scripts.device_runner.commands import parse
from edgekd.scripts.device_runner.measuring import measure_bundles


class FakeDevice(Local):
    """Stands for a device that answers what it likes; the mark of the question comes back, as a real one's would."""

    def __init__(self, folder: Path, answer: str, code: int = 0, err: str = "") -> None:
        super().__init__("liar", str(folder))
        self.answer, self.code, self.err = answer, code, err

    def run(self, words: Sequence[str], **_: Any) -> Result:
        mark = json.loads(words[-1])["mark"]
        return Result(self.code, (mark + self.answer).encode() if self.answer else b"", self.err)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("[" * 200_000, "liar: .*cut off"),
        ("[]", "liar: .*makes no sense"),
        ('{"value": 7}', "makes no sense at its start"),
        ('{"failure": "\\u001b]0;gone\\u0007no"}', r"liar:  ]0;gone no"),
        ('{"value": {"machine": NaN}}', "makes no sense at machine"),
        ('{"value": {"\\u001b[2J": {}}}', "makes no sense at machine"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error_in_words(tmp_path: Path, answer: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message) as told:
        probe(FakeDevice(tmp_path, answer))
    assert "\x1b" not in str(told.value)


def test_an_old_python_that_does_not_say_which_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"3\.8 or later is needed"):
        probe(FakeDevice(tmp_path, "", code=86))


def test_a_missing_file_that_was_never_offered_is_not_sent(tmp_path: Path) -> None:
    store, parcel = tmp_path / "store", parcel_of(bundle_in(tmp_path))
    device = Local("here", str(store))
    offered = sorted(parcel.paths)[0]
    probe(device, parcel)

    with sent(device, parcel, ["../../etc/passwd", "0" * 64, offered]):
        (upload,) = (store / "incoming").iterdir()
        assert [path.name for path in upload.iterdir()] == [offered]


def bundle_in(tmp_path: Path) -> Path:
    from tests.builders.bundles import write

    (tmp_path / "made").mkdir()
    return write(tmp_path / "made")


@pytest.mark.parametrize(
    "reading",
    [
        {"temperatures_c": {"cpu": float("nan")}},
        {"clocks_mhz": {"cpu0": float("inf")}},
        {"governors": {str(n): "x" for n in range(1000)}},
    ],
)
def test_readings_that_no_report_could_hold_are_refused(reading: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"finite|at most"):
        DeviceState.model_validate(reading)


def test_energy_without_a_rail_is_none() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Energy(idle_mw={}, busy_mw={}, inferences=1, mj_per_inference={})


def test_names_of_a_device_are_cut_and_have_no_control_characters() -> None:
    state = DeviceState.model_validate(
        {"power_mode": "\x1b[2J" + "m" * 10_000, "governors": {"\x07cpu": "\x1b[31mfast"}}
    )

    assert state.power_mode is not None and len(state.power_mode) <= 400 and state.power_mode.isprintable()
    assert all(name.isprintable() and value.isprintable() for name, value in state.governors.items())


def test_a_stream_without_lines_is_stopped() -> None:
    """Zeros without an end on standard error, which is read by lines where progress is told."""
    endless = [sys.executable, "-c", "import sys\nwhile True: sys.stderr.buffer.write(bytes(1 << 20))"]
    lines: list[int] = []

    result = run_process(endless, timeout_s=60, on_line=lambda line: lines.append(len(line)))

    assert result.code < 0 and len(result.err) <= 4000 and max(lines) <= 1 << 16


def test_what_ssh_says_reaches_no_terminal_as_control_characters(tmp_path: Path) -> None:
    speaks = tmp_path / "ssh"
    speaks.write_text("#!/bin/sh\nprintf 'Connection closed \\033[2J\\007by peer\\n' >&2\nexit 255\n")
    speaks.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{tmp_path}:{path}"
    try:
        with pytest.raises(DeviceError, match="Connection closed") as told:
            Ssh("far", "somewhere", "folder").run(["true"])
    finally:
        os.environ["PATH"] = path
    assert str(told.value).isprintable()


# ------------------------------------------------------------------------------------------------------------- the store


@pytest.mark.parametrize("name", ["work", "incoming", "thesis"])
def test_a_folder_of_other_files_is_no_store(tmp_path: Path, name: str) -> None:
    """`--folder` names the user's own place by mistake: `work` and `incoming` would be emptied, `remove` would take it all."""
    mine = tmp_path / "mine"
    (mine / name).mkdir(parents=True)
    (mine / name / "years.txt").write_text("of work")
    os.utime(mine / name, (0, 0))
    device = Local("here", str(mine))

    refused = pytest.raises(DeviceError, match=r"/mine .*edgekd device add --folder")
    with refused:
        probe(device, parcel_of(bundle_in(tmp_path)))
    with refused:
        ask(device, "forget", {"folder": str(mine)})
    assert (mine / name / "years.txt").read_text() == "of work"


@pytest.mark.parametrize("part", ["work", "incoming", "objects", "lock"])
def test_a_link_in_the_store_is_not_followed(tmp_path: Path, part: str) -> None:
    bundle, device = bundle_in(tmp_path), Local("here", str(tmp_path / "store"))
    verify_on(device, bundle)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "years").mkdir(parents=True)
    (tmp_path / "store" / part).rename(tmp_path / "moved")
    (tmp_path / "store" / part).symlink_to(elsewhere)

    with pytest.raises(DeviceError, match=f"has links: {part}"):
        verify_on(device, bundle)
    assert [path.name for path in elsewhere.iterdir()] == ["years"]


def test_nothing_is_shipped_into_what_was_shipped(tmp_path: Path) -> None:
    bundle, device = bundle_in(tmp_path), Local("here", str(tmp_path / "store"))
    ship_to(device, bundle, str(tmp_path / "place"))

    with pytest.raises(DeviceError, match=r"/place/sub .*a place beside"):
        ship_to(device, bundle, str(tmp_path / "place" / "sub"))


@pytest.mark.parametrize("to", ["a\0b", "a\nb", "\ud800"])
def test_a_place_that_cannot_be_written_down_is_refused(tmp_path: Path, to: str) -> None:
    with pytest.raises(DeviceError, match=r"--to .* place without them"):
        ship_to(Local("here", str(tmp_path / "store")), bundle_in(tmp_path), to)


def test_a_version_that_cannot_be_proved_where_it_stands_gives_way_to_the_one_before(tmp_path: Path) -> None:
    """A run.py that ends out of memory the second time it is loaded: in the draft it is fine, at the place it is not."""
    from tests.builders.bundles import write

    device, to = Local("here", str(tmp_path / "store")), tmp_path / "place"
    first = ship_to(device, bundle_in(tmp_path), str(to))
    (tmp_path / "new").mkdir()
    parcel = parcel_of(write(tmp_path / "new", labels=("r", "g", "b")))
    broken = tmp_path / "run.py"
    source = next(path for path in parcel.paths.values() if path.name == "run.py").read_text()
    broken.write_text(
        source + "\nsys.loads = getattr(sys, 'loads', 0) + 1\nif sys.loads == 2:\n    raise MemoryError('no more')\n"
    )
    parcel.add_tool("run.py", broken)
    facts = probe(device, parcel)

    with (
        sent(device, parcel, facts.missing) as files,
        pytest.raises(DeviceError, match=f"no more[^$]*version {first.version} stands again"),
    ):
        ask(device, "ship", {**files, "runtime": "", "engine_options": (), "to": str(to)})
    assert (to / "labels.txt").read_text() == "red\ngreen\nblue\n"


def test_a_manifest_that_never_ends_or_tolerates_everything_is_refused(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for text in ("[" * 200_000, json.dumps({**manifest, "golden": {"tolerance": float("inf")}})):
        (bundle / "manifest.json").write_text(text)
        with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
            trial_of(bundle)


def test_facts_and_figures_of_a_newer_runner_are_still_read(tmp_path: Path) -> None:
    device, trial = Local("here", str(tmp_path / "store")), trial_of(bundle_in(tmp_path))
    facts = probe(device)
    assert understand(Facts, {**facts.model_dump(), "colour": "blue"}, "here") == facts
    options = {**vars(parse([])), "warmup_s": 0.02, "block_s": 0.02}
    folder = str(trial.model.parent)
    (figures,) = measure_bundles({"": folder}, folder, folder, options).values()
    answer = understand(Answer, {**figures, "colour": "blue"}, "here")
    assert answer == understand(Answer, figures, "here") and answer.golden.ok
    assert measure_on(device, trial, Options(warmup_s=0.02, block_s=0.02, min_n=30)).golden_ok


def test_json_that_is_nested_without_end_is_refused_wherever_others_wrote_it(tmp_path: Path) -> None:
    """Python's reader ends in a RecursionError there, which is no ValueError."""
    (tmp_path / "figures.json").write_text(deep := "[" * 200_000)
    (tmp_path / "manifest.json").write_text(deep)
    trial = trial_of(bundle_in(tmp_path))
    with pytest.raises(DeviceError, match=r"figures\.json .*nested too deep"):
        figures_of(tmp_path / "figures.json", trial, "far")
    with pytest.raises(DeviceError, match=r"JSON.*docs/devices\.md"):
        _last_json(Local("here", str(tmp_path)), deep.encode())
    assert current_report(tmp_path, "fingerprint") is None
