"""The scripts that run on a device, in a real Python 3.8 with the numpy and onnxruntime that it can still have."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgekd.measure.compare import compare_on
from edgekd.measure.devices.local import Local
from edgekd.measure.on_device import Options, measure_on, roll_back, ship_to, trial_of, verify_on
from edgekd.measure.remote import probe
from tests.builders.bundles import write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def interpreter(old_python: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("python38")
    subprocess.run([old_python, "-m", "venv", str(folder)], check=True, capture_output=True)
    words = [f"{folder}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "numpy", "onnxruntime"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"numpy and onnxruntime for Python 3.8 cannot be had: {done.stderr[-300:]}")
    return f"{folder}/bin/python"


def test_a_bundle_is_measured_verified_compared_shipped_and_rolled_back_in_python_3_8(
    interpreter: str, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = write(tmp_path / "one"), write(tmp_path / "two", labels=("r", "g", "b"))
    device, to = Local("old", str(tmp_path / "store"), python=interpreter), str(tmp_path / "place")

    assert probe(device).python.startswith("3.8.")
    found = measure_on(device, trial_of(one), Options(warmup_s=0.02, block_s=0.02, min_n=30))
    assert found.golden_ok and found.latencies[0].n >= 30 and found.load_ms is not None
    assert "top-1 agrees on 16 of 16" in verify_on(device, one).detail
    assert all(ok for _, ok, _ in compare_on(device, one))
    first, second = ship_to(device, one, to), ship_to(device, two, to)
    assert second.before == first.version and roll_back(device, to).version == first.version
    done = subprocess.run(
        [interpreter, "-B", "device_runner.py", "--block-s", "0.02"],
        cwd=to,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "wrote figures.json" in done.stdout, done.stdout + done.stderr
