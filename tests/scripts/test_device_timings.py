"""device_timings.py times models of any inputs in turns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx

from edgekd.scripts import SCRIPTS
from tests.builders.bundles import UINT8, WORDS


def test_models_of_one_and_of_two_inputs_are_timed_in_turns(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("pixels.onnx", "words.onnx")]
    for file, text in zip(files, (UINT8, WORDS), strict=True):
        onnx.save(onnx.parser.parse_model(text), file)
    command = [sys.executable, "-B", str(SCRIPTS / "device_timings.py"), "onnxruntime", "3", "1", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["wall_ms"]) == set(files) and all(len(rounds) == 3 for rounds in found["wall_ms"].values())
