"""The commands around a build: JSON, version, completion, the cache, the recipe's schema, the doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

import edgekd
from edgekd.figures.outputs import (
    OUTPUTS,
    CacheOutput,
    LintOutput,
    MeasureOutput,
    ReportOutput,
    TargetsOutput,
    VerifyOutput,
)
from edgekd.recipe import Recipe
from tests.builders.bundles import report, write
from tests.builders.typed import typed

MAX = """
<ir_version: 10, opset_import: ["" : 20]>
net (double[N, 3] x) => (double[N, 3] y) { y = Abs(x) }
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEKD_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


def stored(folder: Path, name: str, size: int = 1000) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "weights").write_bytes(b"\0" * size)


def printed(*words: str, cwd: Path, code: int = 0) -> Any:
    """The JSON on standard output, alone there."""
    done = typed(*words, "--json", cwd=cwd)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_the_version_is_printed_without_a_command(tmp_path: Path) -> None:
    assert typed("--version", cwd=tmp_path).stdout == f"edgekd {edgekd.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_s_completion_offers_the_commands(shell: str, tmp_path: Path) -> None:
    """As the shell asks: with the words so far in its variables."""
    asked = {"_EDGEKD_COMPLETE": f"complete_{shell}", "COMP_WORDS": "edgekd mea", "COMP_CWORD": "1"}
    more = {"_TYPER_COMPLETE_ARGS": "edgekd mea", "_TYPER_COMPLETE_FISH_ACTION": "get-args", "PATH": ""}
    code = "import sys; sys.argv = ['edgekd']; from edgekd.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**asked, **more}, capture_output=True, text=True, check=False
    )
    assert "measure" in done.stdout, done.stderr


def test_a_bundle_s_report_is_json_and_a_missed_check_ends_with_3(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    assert ReportOutput.model_validate(printed("report", str(bundle), cwd=tmp_path)).report.recipe == "tiny"

    missed = {"name": "size_mb", "verdict": "missed", "found": "0.310 MB", "limit": "at most 0.05"}
    bundle = write(tmp_path, report=report().model_copy(update={"checks": (edgekd.figures.candidate.Check(**missed),)}))
    assert printed("report", str(bundle), cwd=tmp_path, code=3)["report"]["headline"].startswith("NOT TO SHIP")
    assert typed("report", str(bundle), cwd=tmp_path).returncode == 3


def test_a_verified_bundle_is_json_with_a_row_for_each_file(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    good = VerifyOutput.model_validate(printed("verify", str(bundle), cwd=tmp_path))
    assert good.ok and {"model.onnx", "run.py", "stored outputs"} <= {row.what for row in good.rows}

    (bundle / "labels.txt").write_text("other\n")
    bad = VerifyOutput.model_validate(printed("verify", str(bundle), cwd=tmp_path, code=3))
    assert not bad.ok and [row.what for row in bad.rows if not row.ok] == ["labels.txt", "stored outputs"]


def test_a_measurement_is_json_with_the_device_s_figures(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    words = ("measure", str(bundle), "-d", "local", "--block-s", "0.05")
    found = MeasureOutput.model_validate(printed(*words, cwd=tmp_path))
    assert [device.device for device in found.devices] == ["local"] and found.devices[0].latencies[0].p50_ms > 0
    assert found.report.devices == found.devices


def test_findings_of_lint_are_json(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(MAX), tmp_path / "m.onnx")
    found = LintOutput.model_validate(printed("lint", "m.onnx", "-t", "jetson", cwd=tmp_path))
    assert found.target == "jetson-orin-nano" and any("fp64" in finding.why for finding in found.findings)


def test_targets_are_json_with_the_tables_of_their_files(tmp_path: Path) -> None:
    every = TargetsOutput.model_validate(printed("targets", cwd=tmp_path)).targets
    (one,) = TargetsOutput.model_validate(printed("targets", "pi5", cwd=tmp_path)).targets
    assert one in every and one["name"] == "raspberry-pi-5" and one["runtime"]["name"] == "onnxruntime"


def test_the_cache_is_json_and_is_pruned_only_with_days_and_an_answer(tmp_path: Path) -> None:
    cache = tmp_path / "EDGEKD_CACHE"
    stored(cache, "distill-1", 2_000_000)
    found = CacheOutput.model_validate(printed("cache", cwd=tmp_path))
    assert [stage.name for stage in found.stages] == ["distill-1"] and found.size_mb == pytest.approx(2.0)

    bare = typed("cache", "--prune", cwd=tmp_path)
    assert bare.returncode == 2 and "--prune --days 30" in bare.stderr
    unasked = typed("cache", "--prune", "--days", "0", cwd=tmp_path)  # standard input is no terminal: no answer is a no
    assert unasked.returncode == 2 and "nothing was deleted: 1 stages of 2.0 MB" in unasked.stderr
    assert (cache / "distill-1").exists()

    assert "freed 0.0 MB" in typed("cache", "--prune", "--days", "1", cwd=tmp_path).stdout
    assert "freed 2.0 MB" in typed("cache", "--prune", "--days", "0", "--yes", cwd=tmp_path).stdout
    assert not (cache / "distill-1").exists()


def test_devices_and_the_doctor_are_json(tmp_path: Path) -> None:
    assert printed("device", "list", cwd=tmp_path) == {"format": 1, "devices": []}
    parts = [row["part"] for row in printed("doctor", "-t", "pi5", cwd=tmp_path)["rows"]]
    assert parts[0] == "edgekd" and parts[-1] == "raspberry-pi-5"
    assert "-> " in typed("doctor", cwd=tmp_path).stdout


def test_the_schema_of_recipes_knows_every_table_and_takes_what_is_printed(tmp_path: Path) -> None:
    schema = json.loads(typed("recipe", "--schema", cwd=tmp_path).stdout)
    assert schema == Recipe.model_json_schema() and {"data", "student", "budget"} <= set(schema["properties"])

    (tmp_path / "edgekd.toml").write_text('[data]\ntrain = "a"\ntest = "b"\n[student]\nmodel = "edgekd:resnet8"\n')
    whole = json.loads(typed("recipe", cwd=tmp_path).stdout)
    assert whole["distill"]["losses"][0]["method"] == "kd" and whole["budget"]["max_drop_from_fp32"] == 1.0


def test_every_output_says_its_format() -> None:
    assert {record.model_fields["format"].default for record in OUTPUTS} == {1}


def test_a_report_is_short_where_python_prints_it_and_a_table_in_a_notebook() -> None:
    made = report()
    assert repr(made) == f"<Report of tiny for box: {made.headline}>"
    page = made._repr_html_()
    assert page.startswith("<p><b>NOT DECIDED: ") and "<td>int8 (in the bundle)</td><td>90.00 ±1.00</td>" in page


def test_dir_shows_the_public_names() -> None:
    assert {"build", "load_recipe", "load_target", "Recipe", "Report", "Target", "distill", "quantize"} <= set(
        dir(edgekd)
    )
