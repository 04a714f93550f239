"""What `edgekd doctor` finds on this machine, and the remedies for what it does not find."""

from __future__ import annotations

import platform
from pathlib import Path

import onnxruntime as ort
import pytest

from edgekd.check import doctor
from edgekd.check.doctor import diagnose
from edgekd.figures.outputs import DoctorRow
from edgekd.target import load_target


def rows(folder: Path, target: str = "") -> dict[str, DoctorRow]:
    return {row.part: row for row in diagnose(folder, load_target(target) if target else None)}


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_versions_and_providers_are_those_of_this_machine(tmp_path: Path) -> None:
    found = rows(tmp_path)

    assert found["edgekd"].found.endswith(platform.python_version())
    assert found["onnxruntime"].found.startswith(f"{ort.__version__}: ")
    assert "CPUExecutionProvider" in found["onnxruntime"].found


def test_the_cache_is_counted_and_one_that_is_not_there_is_empty(tmp_path: Path) -> None:
    (tmp_path / "cache" / "score-1").mkdir(parents=True)
    (tmp_path / "cache" / "score-1" / "test.npy").write_bytes(b"\0" * 3_000_000)

    assert f"{tmp_path / 'cache'}: 1 stages, 3 MB" in rows(tmp_path / "cache")["cache"].found
    assert ": 0 stages, 0 MB" in rows(tmp_path / "none" / "yet")["cache"].found


def test_a_program_or_package_that_is_not_here_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(doctor.EXTRAS, "no-such-package", ("audio", "sounds are read"))
    found = rows(tmp_path)

    assert found["ssh"].found == "not found" and "OpenSSH client" in found["ssh"].remedy
    assert found["no-such-package"].found == "not installed"
    assert found["no-such-package"].remedy == "with it sounds are read: pip install 'edgekd[audio]'"


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ({"avx2", "avx512_vnni"}, "fast here: avx512_vnni"),
        ({"asimddp", "fp"}, "fast here: asimddp"),
        ({"avx2"}, "int8 may be slower than fp32"),
        (set(), "not known"),
    ],
)
def test_the_processor_s_int8_is_told(
    features: set[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "cpu_features", lambda: frozenset(features))

    assert told in rows(tmp_path)["int8"].found


@pytest.mark.parametrize(
    ("target", "told"),
    [("jetson", "does not run here"), ("raspberry-pi-5", "another architecture"), ("x86-cpu", "the same architecture")],
)
def test_a_target_s_figures_that_cannot_be_had_here_are_told(
    target: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    row = rows(tmp_path, target)[load_target(target).name]

    assert told in row.found and "--device NAME" in row.remedy


def test_a_damaged_file_of_devices_is_a_row_with_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.measure.devices import named

    damaged = named.devices_file()
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_text("[nano\n")

    row = rows(tmp_path)["devices"]
    assert row.found == "not readable" and str(damaged) in row.remedy
