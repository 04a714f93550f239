"""The commands as a user types them: what they print, how they end, and that bad input costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgekd import build
from edgekd.errors import RecipeError
from tests.builders.recipes import RECIPE
from tests.builders.typed import typed

CONV = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y)
{ w = Constant<value = float[4, 3, 1, 1] {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>() y = Conv(x, w) }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    return tmp_path


def refused(folder: Path, *words: str) -> str:
    """The command ends with 2, explains itself without a stack, and leaves no bundle."""
    done = typed(*words, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert not (folder / "build").exists()
    return done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from edgekd.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\n"
        "assert result.exit_code == 0 and 'build' in result.output, result.output\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_targets_lists_every_device_and_shows_one(folder: Path) -> None:
    listed = typed("targets", cwd=folder).stdout
    assert "jetson-orin-nano (jetson)" in listed and "raspberry-pi-5" in listed
    assert "edgekd targets --write my-board.toml" in listed
    shown = typed("targets", "jetson", cwd=folder).stdout
    assert "also: jetson, orin-nano" in shown
    assert "memory_bandwidth_gbs" in shown and "68" in shown and "2026-11" in shown


def test_a_target_file_is_written_and_shown_and_serves_an_estimate(folder: Path) -> None:
    wrote = typed("targets", "--write", "my-board.toml", "--like", "jetson", cwd=folder)
    assert wrote.returncode == 0, wrote.stderr
    assert wrote.stdout.startswith(
        "wrote my-board.toml, a copy of jetson-orin-nano: replace its figures, then edgekd build"
    )
    shown = " ".join(typed("targets", "my-board.toml", cwd=folder).stdout.split())
    assert shown.startswith("my-board: My board hardware") and "source copied from jetson-orin-nano: NVIDIA" in shown
    file = folder / "my-board.toml"
    file.write_text("\n".join(line for line in file.read_text().split("\n") if not line.startswith(("source", "date"))))
    assert "source own figures" in " ".join(typed("targets", "my-board.toml", cwd=folder).stdout.split())
    onnx.save(onnx.parser.parse_model(CONV), folder / "m.onnx")
    done = typed("targets", "my-board.toml", "--model", "m.onnx", cwd=folder)
    assert done.returncode == 0 and "basis: profile of My board (own figures)" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_a_written_target_file_is_built_for_at_once(folder: Path) -> None:
    """The worked example of docs/targets.md."""
    assert typed("targets", "--write", "my-board.toml", "--like", "pi5", cwd=folder).returncode == 0
    done = typed("build", "-t", "my-board.toml", "--set", "budget.max_drop_from_fp32=50", cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "build" / folder.name / "my-board" / "report.json").read_text())
    assert report["target_title"] == "My board"
    (shipped,) = (one for one in report["candidates"] if one["shipped"])
    assert (
        "profile of My board (copied from raspberry-pi-5: published STREAM runs, 2026-11)"
        in shipped["estimate"]["basis"]
    )


def test_write_needs_a_target_to_begin_with_and_like_needs_a_file(folder: Path) -> None:
    for words in (
        ["--write", "b.toml"],
        ["--like", "jetson"],
        ["jetson", "--write", "b.toml", "--like", "jetson"],
        ["--force"],
    ):
        assert "edgekd targets --write my-board.toml --like raspberry-pi-5" in refused(folder, "targets", *words)
    assert "Did you mean jetson?" in refused(folder, "targets", "--write", "b.toml", "--like", "jetsn")
    assert not (folder / "b.toml").exists()


def test_an_unknown_target_is_told_with_the_nearest(folder: Path) -> None:
    assert "Did you mean jetson?" in refused(folder, "build", "--target", "jetsn")
    assert "Did you mean jetson?" in refused(
        folder, "build", "-t", "x86-cpu", "-t", "jetsn"
    )  # before the first is built


def test_all_mistakes_of_a_recipe_are_told_at_once_with_their_lines(folder: Path) -> None:
    (folder / "edgekd.toml").write_text(RECIPE.replace("epochs = 1\nbatch", "epochs = -1\nbach_size = 3\nbatch"))
    text = refused(
        folder, "build", "-t", "jetson", "--set", 'distill.losses=[{method="kd", temperature=0}, {method="kdd"}]'
    )
    assert (
        "edgekd.toml:18 distill.epochs" in text
        and "unknown key 'bach_size'" in text
        and "Did you mean batch_size?" in text
    )
    assert "temperature" in text and "greater than 0" in text and "method 'kdd' not found" in text


def test_a_missing_data_file_is_told_before_anything_is_made(folder: Path) -> None:
    text = refused(folder, "build", "-t", "jetson", "--set", "data.train=none.parquet")
    assert "none.parquet" in text and "does not exist" in text


def test_a_teacher_with_other_classes_than_the_data_is_told(folder: Path) -> None:
    text = refused(
        folder, "build", "-t", "jetson", "--set", "teacher.args={num_classes=7}", "--set", "teacher.train_epochs=0"
    )
    assert "7 classes, the data has 10" in text


def test_a_student_that_cannot_be_traced_is_told_with_its_line(folder: Path) -> None:
    (folder / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, n):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(64, n)\n"
        "    def forward(self, x):\n"
        "        if x.sum() > 0:\n"
        "            x = -x\n"
        "        return self.fc(x.flatten(1))\n"
        "def build(num_classes):\n"
        "    return Net(num_classes)\n"
    )
    text = refused(
        folder, "build", "-t", "jetson", "--set", "student.model=python:net.py:build", "--set", "student.args={}"
    )
    assert "net.py" in text and "if x.sum() > 0" in text
    assert len(text.partition("edgekd: ")[2].splitlines()) <= 3


LINEAR = "self.fc = nn.Linear(64, n)"
FLAT = "return self.fc(x.flatten(1))"


@pytest.mark.parametrize(
    ("init", "forward", "message"),
    [
        (LINEAR, "y = self.fc(x.flatten(1)); return (y, y) if self.training else y", "tuple of 2"),
        (f"{LINEAR}; self.requires_grad_(False)", FLAT, "requires_grad is False"),
        ("self.fc = nn.LazyLinear(n)", FLAT, "lazy layers"),
        (LINEAR, "return self.fc(nn.functional.dropout(x.flatten(1)))", "training=self.training"),
        (LINEAR, "return self.fc(x.flatten(1) - x.flatten(1).mean(0))", "running statistics"),
        (LINEAR, "return self.fc(torch.i0(x.flatten(1)))", "ONNX has no translation"),
    ],
    ids=["auxiliary head", "frozen", "lazy", "random", "mixing", "without translation"],
)  # fmt: skip
def test_a_student_that_could_not_ship_is_refused_before_training(
    init: str, forward: str, message: str, folder: Path
) -> None:
    (folder / "net.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, n):\n"
        "        super().__init__()\n"
        f"        {init}\n"
        "    def forward(self, x):\n"
        f"        {forward}\n"
        "def build(num_classes):\n"
        "    return Net(num_classes)\n"
    )
    text = refused(
        folder, "build", "-t", "jetson", "--set", "student.model=python:net.py:build", "--set", "student.args={}"
    )
    assert message in text and "quantized student" not in text and "epoch" not in text
    assert len(text.partition("edgekd: ")[2].splitlines()) <= 3


def test_an_opset_that_the_student_cannot_be_written_at_is_refused_before_training_with_the_least(folder: Path) -> None:
    (folder / "hard.py").write_text(
        "from torch import nn\n"
        "def hard(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, 32), nn.Hardswish(), nn.Linear(32, num_classes))\n"
    )
    student = "student={model='python:hard.py:hard'}"
    text = refused(folder, "build", "-t", "x86-cpu", "--set", "export.opset=13", "--set", student)
    assert "opset 13 (No Previous Version of HardSwish" in text and "export.opset = 14" in text and "epoch" not in text


def test_a_layer_to_keep_in_float_that_does_not_exist_is_told_before_training(folder: Path) -> None:
    text = refused(folder, "build", "-t", "jetson", "--set", 'quantize.keep_float=["layr1"]')
    assert "keep_float = 'layr1'" in text and "epoch" not in text


def test_features_that_a_method_cannot_compare_are_told_before_training(folder: Path) -> None:
    losses = 'distill.losses=[{method="fitnet", layers={"fc"="fc"}}]'
    text = refused(folder, "build", "-t", "jetson", "--set", losses)
    assert "fitnet" in text and "fc [4, 10] = fc [4, 10]" in text


def test_a_layer_that_does_not_exist_is_told_with_the_nearest(folder: Path) -> None:
    text = refused(
        folder, "build", "-t", "jetson", "--set", 'distill.losses=[{method="at", layers={"layr1"="layer1"}}]'
    )
    assert "no layer 'layr1'" in text and "Did you mean layer1?" in text


def test_a_teacher_no_better_than_chance_stops_without_an_answer(folder: Path) -> None:
    text = refused(folder, "build", "-t", "jetson", "--set", "teacher.train_epochs=0")
    assert "no better than chance" in text and "--yes" in text


def test_a_recipe_that_the_device_cannot_run_is_told(folder: Path) -> None:
    assert "export.opset" in refused(folder, "build", "-t", "jetson-xavier-nx", "--set", "export.opset=20")


def test_init_writes_a_recipe_for_the_data_that_is_there_and_replaces_none(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        pq.write_table(
            pa.table({"width": np.arange(30) % 7, "label": np.arange(30) % 3}), tmp_path / "data" / f"{name}.parquet"
        )
    (tmp_path / "big.onnx").write_bytes(b"")
    done = typed("init", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "edgekd.toml").read_text()
    assert 'train = "data/train-00000-of-00001.parquet"' in text and 'test = "data/test-00000-of-00001.parquet"' in text
    assert 'model = "onnx:big.onnx"' in text and "30 rows" in done.stdout
    again = typed("init", cwd=tmp_path)
    assert again.returncode == 2 and "--force" in again.stderr


def test_overrides_that_are_one_text_are_one_mistake(tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    with pytest.raises(RecipeError) as caught:
        build(tmp_path, "x86-cpu", overrides="distill.epochs=1")
    assert str(caught.value).count("distill.epochs=1") == 2 and "['distill.epochs=1']" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_build_leaves_a_bundle_and_a_second_one_changes_nothing(folder: Path) -> None:
    first = typed("build", "-t", "raspberry-pi-5", "--set", "budget.max_drop_from_fp32=50", cwd=folder)
    assert first.returncode == 0, first.stderr
    bundle = folder / "build" / folder.name / "raspberry-pi-5"
    state = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in bundle.iterdir()}
    assert {
        "model.onnx",
        "model.fp32.onnx",
        "labels.txt",
        "golden.npz",
        "manifest.json",
        "run.py",
        "report.json",
        "report.html",
    } <= set(state)
    assert "build_engine.py" not in state

    second = typed("build", "-t", "raspberry-pi-5", "--set", "budget.max_drop_from_fp32=50", cwd=folder)
    assert second.returncode == 0 and "Nothing changed" in second.stdout
    assert {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in bundle.iterdir()} == state

    assert typed("verify", str(bundle), cwd=folder).returncode == 0
    assert "not measured" in typed("report", str(bundle), cwd=folder).stdout

    missed = typed("build", "-t", "raspberry-pi-5", "--set", "budget.min_accuracy=99.99", cwd=folder)
    assert missed.returncode == 3 and "missed" in missed.stdout and "min_accuracy" in missed.stdout
    assert "NOT TO SHIP: 1 check missed (min_accuracy)" in missed.stdout
    assert (bundle / "README.txt").read_text().startswith("NOT TO SHIP")
    unshipped = typed("ship", str(bundle), "-d", "local", "--to", str(folder / "there"), cwd=folder)
    assert unshipped.returncode == 3 and "--anyway" in unshipped.stderr and not (folder / "there").exists()

    (bundle / "model.onnx").write_bytes(b"changed")
    broken = typed("verify", str(bundle), cwd=folder)
    assert broken.returncode == 3 and "FAILED" in broken.stdout


@pytest.mark.slow
def test_a_jetson_after_a_raspberry_pi_does_not_distil_again(folder: Path) -> None:
    for target in ("raspberry-pi-5", "jetson"):
        assert typed("build", "-t", target, "--set", "budget.max_drop_from_fp32=50", cwd=folder).returncode == 0
    report = json.loads((folder / "build" / folder.name / "jetson-orin-nano" / "report.json").read_text())
    reused = {stage["name"]: stage["reused"] for stage in report["stages"]}
    assert reused["distill"] and reused["record_teacher"] and not reused["quantize"]


def test_lint_tells_each_finding_with_its_remedy_and_ends_with_3_where_the_target_refuses(tmp_path: Path) -> None:
    graph = '<ir_version: 9, opset_import: ["" : 17]> g (float[1,4,4] x) => (float[1] y) { y = Det (x) }'
    onnx.save(onnx.parser.parse_model(graph), tmp_path / "model.onnx")

    refused_there = typed("lint", "model.onnx", "--target", "jetson", cwd=tmp_path)
    assert refused_there.returncode == 3 and refused_there.stderr == ""
    assert "error    tensorrt_operators: Det -> y" in refused_there.stdout and "remedy:" in refused_there.stdout
    assert "1 error in model.onnx for jetson-orin-nano (TensorRT 10.3.0)" in refused_there.stdout

    runs_here = typed("lint", "model.onnx", "-t", "x86-cpu", cwd=tmp_path)
    assert runs_here.returncode == 0 and "nothing found in model.onnx" in runs_here.stdout

    (tmp_path / "model.onnx").write_text("no protobuf")
    no_onnx = typed("lint", "model.onnx", "-t", "x86-cpu", cwd=tmp_path)
    assert no_onnx.returncode == 2 and len(no_onnx.stderr.splitlines()) == 1 and "no valid ONNX" in no_onnx.stderr


def test_an_output_folder_that_holds_other_files_is_left_alone(folder: Path) -> None:
    place = folder / "out" / folder.name / "x86-cpu"
    place.mkdir(parents=True)
    (place / "thesis.tex").write_text("years of work")
    done = typed("build", "-t", "x86-cpu", "-o", "out", cwd=folder)
    assert done.returncode == 2 and (place / "thesis.tex").read_text() == "years of work"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here, whose permissions allow what it refuses")
def test_an_output_folder_that_cannot_be_written_is_told_before_anything_is_decoded(folder: Path) -> None:
    told = refused(folder, "build", "-t", "x86-cpu", "-o", "/proc/edgekd")
    assert "cannot write the bundle to /proc/edgekd" in told and "--output" in told and "decode" not in told


def test_an_estimate_is_a_marked_range_with_what_it_leaves_out(folder: Path) -> None:
    onnx.save(onnx.parser.parse_model(CONV), folder / "m.onnx")

    done = typed("targets", "jetson", "--model", "m.onnx", cwd=folder)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("estimate for jetson-orin-nano: more than ")
    assert "(1 kernel)" in " ".join(done.stdout.split())


def test_a_plot_without_a_roof_is_refused_with_the_reason(folder: Path) -> None:
    """The Jetson's profile states no peak for fp32."""
    onnx.save(onnx.parser.parse_model(CONV), folder / "m.onnx")
    done = typed("targets", "jetson", "--model", "m.onnx", "--plot", "roofline.svg", cwd=folder)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "no kernel" in done.stderr and "fp32" in done.stderr and not (folder / "roofline.svg").exists()


def test_an_estimate_that_cannot_be_made_says_why(folder: Path) -> None:
    onnx.save(onnx.parser.parse_model(CONV), folder / "m.onnx")
    assert "states no memory bandwidth" in refused(folder, "targets", "x86-cpu", "--model", "m.onnx")
    assert "needs a target" in refused(folder, "targets", "--model", "m.onnx")
    assert "--model too" in refused(folder, "targets", "jetson", "--plot", "roofline.svg")
    assert "milliseconds are nobody's" in refused(folder, "device", "calibrate", "emulated:cortex-a76")
